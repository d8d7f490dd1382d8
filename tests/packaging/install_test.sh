#!/bin/bash
# `make install` puts down what it should, where DESTDIR and PREFIX say, and leaves a configuration that is there alone.
. "$(dirname "$0")/tap.sh"

root=$scratch/root
files="/etc/kingserver/kingserver.conf
/usr/local/bin/kingserver
/usr/local/lib/systemd/system/kingserver.service
/usr/local/share/kingserver/sysctl/60-kingserver.conf
/usr/local/share/man/man5/kingdb.5
/usr/local/share/man/man7/kingdb.7
/usr/local/share/man/man7/kingserver-protocol.7
/usr/local/share/man/man8/kingserver.8"

install_into() {
    make --no-print-directory install DESTDIR="$1" "${@:2}"
}

has_files() {
    same "$1" "$(cd "$root" && find . -type f | sed 's/^\.//' | LC_ALL=C sort)"
}

unit_starts() {
    local command
    command=$(sed -n 's/^ExecStart=//p' "$root/$1")
    same "$2" "$command"
}

leaves_configuration() {
    echo "# mine" >"$root/etc/kingserver/kingserver.conf"
    install_into "$root"
    same "# mine" "$(cat "$root/etc/kingserver/kingserver.conf")"
}

# "name = value" per line: the defaults of --help.
defaults_of_help() {
    "$kingserver" --help | awk '
        /^  -/ { split("", names); for (i = 1; i <= NF; i++) if ($i ~ /^--/) { gsub(/^--|,$/, "", $i); names[i] = $i } }
        match($0, /\(default: .*\)$/) { for (i in names) print names[i] " = " substr($0, RSTART + 10, RLENGTH - 11) }'
}

offers_defaults() {
    sed -n 's/^#\([a-z]\)/\1/p' "$1" >"$scratch/offered"
    test -s "$scratch/offered"
    defaults_of_help >"$scratch/defaults"
    same "" "$(grep -vxFf "$scratch/defaults" "$scratch/offered")"
}

check "make install" install_into "$root"
check "installs these files and no others" has_files "$files"
check "the binary is the one that was built" cmp "$kingserver" "$root/usr/local/bin/kingserver"
check "the lines that the configuration offers are the defaults" offers_defaults debian/kingserver.conf
sed 's/ = 11211/ = 11212/' debian/kingserver.conf >"$scratch/wrong.conf"
refuse "control: another default is noticed" offers_defaults "$scratch/wrong.conf"
check "the unit starts it" unit_starts usr/local/lib/systemd/system/kingserver.service \
    "/usr/local/bin/kingserver --config /etc/kingserver/kingserver.conf"
check "a second install leaves the configuration alone" leaves_configuration

root=$scratch/opt
check "make install PREFIX=/opt/king SYSCONFDIR=/opt/etc UNITDIR=/units" \
    install_into "$root" PREFIX=/opt/king SYSCONFDIR=/opt/etc UNITDIR=/units
check "the unit follows PREFIX and SYSCONFDIR" unit_starts units/kingserver.service \
    "/opt/king/bin/kingserver --config /opt/etc/kingserver/kingserver.conf"
refuse "control: an installation without the unit is noticed" has_files "$(grep -v service <<<"$files")"
finish
