#!/bin/sh
# Installs DuckDB, polars and hyparquet, as tests/interop/run.sh does, and measures.
# Usage: bench/peers/run.sh [arguments of build/bench/peers]
set -eu
cd "$(dirname "$0")/../.."

skip_all() {
    echo "skip bench-peers: $1"
    exit 0
}

. tests/interop/packages.sh
lock_packages
install_packages
unlock_packages
exec build/bench/peers "$@"
