#!/bin/bash
# The manual pages are clean for mandoc, and kingserver(8) documents the options of --help.
. "$(dirname "$0")/tap.sh"

lint() {
    mandoc -T lint -W warning "$1"
}

# Names of the long options in a text, one per line.
long_options() {
    grep -oE -- '--[a-z][a-z0-9]*([.-][a-z0-9]+)*' | sort -u
}

# Names of the commands of --help, one per line.
commands() {
    "$kingserver" --help | sed -n '/^Commands/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

options_are_documented() {
    "$kingserver" --help | long_options >"$scratch/help"
    for command in $(commands); do
        "$kingserver" "$command" --help
    done | long_options >>"$scratch/help"
    sort -u -o "$scratch/help" "$scratch/help"
    mandoc -T ascii -O width=500 man/kingserver.8 | sed 's/.\x08//g' | long_options >"$scratch/page"
    test -s "$scratch/help"
    same "" "$(comm -23 "$scratch/help" "$scratch/page")"
}

commands_are_documented() {
    mandoc -T ascii -O width=500 man/kingserver.8 | sed 's/.\x08//g' >"$scratch/page"
    commands >"$scratch/commands"
    grep -x backup "$scratch/commands"
    while read -r command; do
        grep -qE "^ +$command( |\$)" "$scratch/page" || return 1
    done <"$scratch/commands"
}

for page in kingserver.8 kingserver-protocol.7 kingdb.5 kingdb.7; do
    check "$page is clean" lint "man/$page"
done
printf '.TH\n.Bogus\n' >"$scratch/bogus.8"
refuse "control: a bad page is not clean" lint "$scratch/bogus.8"
check "every option of --help is in kingserver.8" options_are_documented
check "every command of --help is in kingserver.8" commands_are_documented
finish
