# Sourced by the shell tests, which report in the Test Anything Protocol: one line per check, the plan at the end. A script that
# dies half-way prints no plan and leaves a non-zero status, which tests/run counts as a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
kingserver=${KINGSERVER:-$target/release/kingserver}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
checks=0
failures=0

# check NAME COMMAND...: passes if every step of the command succeeds; its output is shown if one does not.
check() {
    run_checked "${@:2}"
    report "$1" "$status"
}

# refuse NAME COMMAND...: the control run; passes if the command fails.
refuse() {
    run_checked "${@:2}"
    report "$1" $((status == 0))
}

# Not `if "$@"`: bash ignores `set -e` in everything that a condition calls, and a function would be judged by its last step only.
run_checked() {
    set +e
    (set -e; "$@") >"$scratch/output" 2>&1
    status=$?
    set -e
}

report() {
    checks=$((checks + 1))
    if [ "$2" = 0 ]; then
        echo "ok $checks - $1"
    else
        failures=$((failures + 1))
        echo "not ok $checks - $1"
        sed 's/^/#   /' "$scratch/output"
    fi
}

# same WANTED GOT
same() {
    [ "$1" = "$2" ] || { printf 'wanted: %s\ngot:    %s\n' "$1" "$2"; return 1; }
}

finish() {
    echo "1..$checks"
    [ "$failures" = 0 ]
}
