"""memccapable, libmemcached's test of servers: each of its tests must pass."""

import subprocess

import pytest

TESTS = {"ascii": 27, "binary": 27}


@pytest.mark.parametrize("dialect", TESTS)
def test_capable(server, dialect):
    command = ["memccapable", "-h", "127.0.0.1", "-p", str(server.port), f"-{dialect[0]}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    shown = done.stdout + done.stderr
    assert shown.count("[pass]") == TESTS[dialect] and "[FAIL]" not in shown, shown
    assert done.returncode == 0, shown
    print(f"memccapable, {dialect}: {TESTS[dialect]} of {TESTS[dialect]}")
