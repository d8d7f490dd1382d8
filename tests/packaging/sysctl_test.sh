#!/bin/bash
# Every key of the sysctl profile exists in this kernel and takes the value it is given. Keys that belong to a network namespace are
# really set, in a fresh one; for the others the value is compared in shape with the present one. The host's settings stay as they are.
. "$(dirname "$0")/tap.sh"

profile=sysctl/60-kingserver.conf

# The settings of a profile, recommended and offered: "key value" per line.
settings() {
    sed -nE 's/^#?([a-z0-9_]+(\.[a-z0-9_-]+)+) = (.*)$/\1 \3/p' "$1"
}

path_of() {
    echo "/proc/sys/${1//.//}"
}

in_fresh_namespace() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(--user --map-root-user)
    unshare "${as_root[@]}" --net "$@"
}

# A network key that a fresh namespace lets root write is that namespace's own.
is_namespaced() {
    [[ $1 == net.* ]] && in_fresh_namespace sh -c '[ -e "$1" ] && [ $(stat -c %a "$1") = 644 ]' sh "$(path_of "$1")"
}

# set_in_namespace KEY VALUE: writes it in a fresh namespace, reads it back, and looks that the host's did not move.
set_in_namespace() {
    local file before after
    file=$(path_of "$1")
    before=$(cat "$file")
    after=$(in_fresh_namespace sh -c 'echo "$2" > "$1" && cat "$1"' sh "$file" "$2")
    same "$2" "$(echo $after)"
    same "$before" "$(cat "$file")"
}

# fits KEY VALUE: the key exists, and the value is as many decimal numbers as the present one.
fits() {
    local file present wanted
    file=$(path_of "$1")
    present=($(cat "$file"))
    wanted=($2)
    same "${#present[@]}" "${#wanted[@]}"
    [[ $2 =~ ^[0-9]+([ \ ][0-9]+)*$ ]]
}

takes() {
    if is_namespaced "$1"; then set_in_namespace "$1" "$2"; else fits "$1" "$2"; fi
}

every_line_is_understood() {
    same "$(grep -cE '^#?[^# ]' "$profile")" "$(settings "$profile" | wc -l)"
}

no_key_twice() {
    same "" "$(settings "$profile" | cut -d' ' -f1 | sort | uniq -d)"
}

check "every line is a comment or a setting" every_line_is_understood
check "no key is set twice" no_key_twice
while read -r key value; do
    check "$key = $value" takes "$key" "$value"
done < <(settings "$profile")
check "there is a namespaced key to try" is_namespaced net.core.somaxconn
refuse "control: an unknown network key" takes net.ipv4.tcp_bogus 1
refuse "control: an unknown vm key" takes vm.bogus 1
refuse "control: a word for a number, in a namespace" takes net.core.somaxconn many
refuse "control: a word for a number" takes vm.swappiness many
refuse "control: too few numbers" takes net.ipv4.tcp_rmem "4096 x"
finish
