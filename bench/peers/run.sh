#!/bin/sh
# Installs DuckDB, polars and hyparquet, as tests/interop/run.sh does, and measures.
# Usage: bench/peers/run.sh [arguments of build/bench/peers]
set -eu
cd "$(dirname "$0")/../.."
lock=tests/interop/package-lock.json
build=build/interop

skip_all() {
    echo "skip bench-peers: $1"
    exit 0
}

# What npm's log has when there is no way to the registry.
unreachable='ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|E(NET|HOST)UNREACH|TIMED?_?OUT'

# Installs the pinned packages, unless the last install was of this very lock file.
install_packages() {
    installed=$build/node_modules/.installed-lock.json
    cmp -s $lock $installed && return
    cp tests/interop/package.json $lock $build/
    if ! (cd $build && npm ci --ignore-scripts --no-audit --no-fund --prefer-offline \
            --fetch-retries=1 --fetch-retry-mintimeout=1000) >$build/npm.log 2>&1; then
        if grep -qE "$unreachable" $build/npm.log; then
            skip_all "the package registry cannot be reached"
        fi
        cat $build/npm.log >&2
        exit 2
    fi
    cp $lock $installed
}

for tool in node npm; do
    command -v $tool >/dev/null || skip_all "there is no $tool"
done
# The lock file pins engines that are compiled for this platform.
[ "$(node -p 'process.platform + process.arch')" = linuxx64 ] ||
    skip_all "the engines are pinned for Linux on x86-64"
mkdir -p $build
if command -v flock >/dev/null; then
    exec 9>$build/lock
    flock 9
fi
install_packages
exec 9>&-
exec build/bench/peers "$@"
