#!/bin/bash
# The Debian package from build to purge: clean for lintian, installed into a fresh minimal Debian (a chroot below target/), started
# there with the unit's command, restarted with its data, removed without a trace. Needs root.
. "$(dirname "$0")/tap.sh"

base=$target/chroot-base
root=$scratch/root
unit=lib/systemd/system/kingserver.service

build() {
    make --no-print-directory deb
    package=$(echo "$target"/deb/kingserver_*.deb)
    test -f "$package"
}

# The release this host runs, from the mirror this host uses; kept for the next run.
bootstrap() {
    [ -d "$base" ] && return
    local release mirror
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Release: $release" "Component: main" "Created-By: Packages" | head -1)
    rm -rf "$base.new"
    debootstrap --variant=minbase "$release" "$base.new" "$mirror"
    mv "$base.new" "$base"
}

# Runs a command in the chroot, which sees neither the host's network nor its processes nor its mounts to come.
inside() {
    unshare --mount --net --pid --fork --kill-child --mount-proc="$root/proc" chroot "$root" "$@"
}

# What a package may leave behind: dpkg's own books, its log, and caches that are anybody's.
files_of_root() {
    (cd "$root" && find . -xdev ! -path './var/lib/dpkg/*' ! -path './var/cache/*' ! -path './var/log/*' | LC_ALL=C sort)
}

has_no_dependencies() {
    local depends
    depends=$(dpkg-deb --field "$package" Depends)
    same "" "$depends"
}

keeps_sysctl_inactive() {
    test -f "$root/usr/share/kingserver/sysctl/60-kingserver.conf"
    same "" "$(dpkg-deb --contents "$package" | grep -E 'sysctl\.d/' || true)"
}

# Each file that `make install` makes is in the package, with the same bytes; the binary is built from another directory and may differ.
agrees_with_make_install() {
    local file
    make --no-print-directory install DESTDIR="$scratch/make" PREFIX=/usr UNITDIR=/lib/systemd/system
    mkdir "$scratch/deb"
    dpkg-deb --extract "$package" "$scratch/deb"
    find "$scratch/deb/usr/share/man" -name '*.gz' -exec gunzip {} +
    (cd "$scratch/make" && find . -type f) >"$scratch/installed"
    grep -q kingserver.service "$scratch/installed"
    while read -r file; do
        test -f "$scratch/deb/$file" || { echo "not in the package: $file"; return 1; }
        [ "$file" = ./usr/bin/kingserver ] || cmp "$scratch/make/$file" "$scratch/deb/$file"
    done <"$scratch/installed"
    same "" "$(cd "$scratch/deb" && find . -type f ! -path './usr/share/doc/*' ! -path './usr/share/lintian/*' | grep -vxFf "$scratch/installed")"
}

verifies() {
    systemd-analyze --root="$1" --man=no --recursive-errors=no verify kingserver.service
}

# A typing error in the unit, for the control run.
spoiled_root() {
    mkdir -p "$scratch/spoiled/usr/bin" "$scratch/spoiled/lib/systemd/system"
    cp "$root/usr/bin/kingserver" "$scratch/spoiled/usr/bin/"
    sed 's/^ProtectHome=/ProtectHomes=/' "$root/$unit" >"$scratch/spoiled/$unit"
    echo "$scratch/spoiled"
}

exposure() {
    systemd-analyze security --offline=true --root="$root" --no-pager kingserver.service | sed -n 's/.*Overall exposure level[^:]*: \([0-9.]*\).*/\1/p'
}

is_hardened() {
    exposure | awk '{ exit !($1 > 0 && $1 <= 2.0) }'
}

# The unit's user, its directory and its command, in a network of its own, where port 11211 is free whatever the host runs.
serves() {
    local user=64999 directory=$root/var/lib/private/kingserver
    mkdir -p "$directory"
    chown $user:$user "$directory"
    chmod 700 "$directory"
    ln -sfn private/kingserver "$root/var/lib/kingserver"
    unshare --net --pid --fork --kill-child --mount-proc python3 tests/packaging/serve.py \
        "$root" $user "$scratch/calls" $(sed -n 's/^ExecStart=//p' "$root/$unit")
}

# The names in a set of system calls, the sets that it names included.
calls_of() {
    local name
    systemd-analyze syscall-filter "$1" | sed '1d; /^ *#/d; s/ //g' | while read -r name; do
        case $name in
        @*) calls_of "$name" ;;
        *) echo "$name" ;;
        esac
    done
}

# The calls in a list of sets and names.
calls_in() {
    local word
    for word in $1; do
        case $word in @*) calls_of "$word" ;; *) echo "$word" ;; esac
    done
}

# The unit's filter, by its lines `SystemCallFilter=[~]word ...` that add and take away, in their order.
allowed_calls() {
    local line
    calls_of @default | sort -u >"$scratch/filter"
    sed -n 's/^SystemCallFilter=//p' "$root/$unit" | while read -r line; do
        calls_in "${line#\~}" | sort -u >"$scratch/named"
        case $line in
        \~*) comm -23 "$scratch/filter" "$scratch/named" >"$scratch/next" ;;
        *) sort -u "$scratch/filter" "$scratch/named" >"$scratch/next" ;;
        esac
        mv "$scratch/next" "$scratch/filter"
    done
}

# stays_within CALLS: every system call in the list passes the unit's filter.
stays_within() {
    test "$(wc -l <"$1")" -ge 10
    allowed_calls
    same "" "$(sort -u "$1" | comm -23 - "$scratch/filter")"
}

keeps_configuration_and_data() {
    test -s "$root/etc/kingserver/kingserver.conf"
    test -n "$(ls -A "$root/var/lib/kingserver/")"
    test ! -e "$root/usr/bin/kingserver"
}

leaves_nothing() {
    same "" "$(files_of_root | diff "$scratch/before" - || true)"
}

# The same commit, from another directory.
builds_the_same_again() {
    git clone -q . "$scratch/clone"
    (cd "$scratch/clone" && CARGO_TARGET_DIR=$scratch/again make --no-print-directory deb)
    cmp "$package" "$scratch/again/deb/${package##*/}"
}

check "make deb" build
[ "$failures" = 0 ] || finish
package=$(echo "$target"/deb/kingserver_*.deb)
check "lintian finds no error and no warning" lintian --fail-on error,warning --allow-root "$target"/deb/kingserver_*.changes
check "depends on nothing" has_no_dependencies
if [ "${TIER:-test}" != full ]; then
    echo "# not compared with a second build: tier full does"
elif ! git diff --quiet HEAD; then
    echo "# not compared with a second build: the work tree has changes"
else
    check "another directory gives the same package, byte for byte" builds_the_same_again
fi
check "debootstrap" bootstrap
[ -d "$base" ] || finish
cp -a "$base" "$root"
cp "$package" "$root/root/kingserver.deb"
files_of_root >"$scratch/before"

check "installs" inside dpkg --install /root/kingserver.deb
check "the sysctl profile is there and inactive" keeps_sysctl_inactive
check "carries what make install does" agrees_with_make_install
check "the unit verifies" verifies "$root"
refuse "control: a unit with a typing error does not" verifies "$(spoiled_root)"
echo "# exposure of the unit (systemd-analyze security): $(exposure)"
check "the unit is hardened: exposure at most 2.0" is_hardened
check "serves, and keeps its data across stop, start, kill and start" serves
check "makes only the system calls that the unit allows" stays_within "$scratch/calls"
{ cat "$scratch/calls" || true; echo mount; } >"$scratch/more-calls"
refuse "control: a call of mount(2) is noticed" stays_within "$scratch/more-calls"
check "removes" inside dpkg --remove kingserver
check "remove keeps configuration and data" keeps_configuration_and_data
refuse "control: which is a trace" leaves_nothing
check "purges" inside dpkg --purge kingserver
check "purge leaves nothing" leaves_nothing
finish
