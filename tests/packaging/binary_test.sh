#!/bin/bash
# The binary is what the README promises: static, stripped, small.
. "$(dirname "$0")/tap.sh"

is_static() {
    refuses_match 'INTERP' readelf --wide --program-headers "$1"
    refuses_match 'NEEDED' readelf --wide --dynamic "$1"
    ldd "$1" 2>&1 | grep -E 'statically linked|not a dynamic executable'
}

is_stripped() {
    refuses_match '\.symtab|\.debug_\w+' readelf --wide --sections "$1"
}

# refuses_match PATTERN COMMAND...: the command succeeds and prints no line with the pattern.
refuses_match() {
    "${@:2}" >"$scratch/elf"
    same "" "$(grep -wE -- "$1" "$scratch/elf")"
}

is_at_most() {
    local size
    size=$(stat -L -c %s "$1")
    echo "# $1: $size bytes"
    [ "$size" -le "$2" ]
}

version_is_cargos() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
    "$kingserver" --version | grep -wF -- "$version"
}

check "statically linked" is_static "$kingserver"
check "stripped" is_stripped "$kingserver"
check "at most 2 MiB" is_at_most "$kingserver" $((2 << 20))
check "--version is the version of Cargo.toml" version_is_cargos
echo 'int main(void) { return 0; }' | gcc -g -x c -o "$scratch/unstripped" -
refuse "control: a program with symbols is not taken for stripped" is_stripped "$scratch/unstripped"
refuse "control: bash is not taken for a static binary" is_static "$(command -v bash)"
finish
