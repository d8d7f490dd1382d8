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

check "make install" install_into "$root"
check "installs these files and no others" has_files "$files"
check "the binary is the one that was built" cmp "$kingserver" "$root/usr/local/bin/kingserver"
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
