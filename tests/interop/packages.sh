# Sourced by what runs other people's engines: the npm packages that package-lock.json pins,
# in build/interop. The caller defines skip_all, which says why and ends with status 0, and
# is in the root of the repository.
interop=tests/interop
build=build/interop

# What npm's log has when there is no way to the registry.
unreachable='ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|E(NET|HOST)UNREACH|TIMED?_?OUT'

# Installs the pinned packages, unless the last install was of this very lock file. The mark
# of an install lies inside of what npm ci begins by removing.
install_packages() {
    installed=$build/node_modules/.installed-lock.json
    cmp -s $interop/package-lock.json $installed && return
    cp $interop/package.json $interop/package-lock.json $build/
    if ! (cd $build && npm ci --ignore-scripts --no-audit --no-fund --prefer-offline \
            --fetch-retries=1 --fetch-retry-mintimeout=1000) >$build/npm.log 2>&1; then
        if grep -qE "$unreachable" $build/npm.log; then
            skip_all "the package registry cannot be reached"
        fi
        cat $build/npm.log >&2
        exit 2
    fi
    cp $interop/package-lock.json $installed
}

# lock_packages, install_packages, and whatever else two runs must not do at a time, then
# unlock_packages.
lock_packages() {
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
}

unlock_packages() {
    exec 9>&-
}
