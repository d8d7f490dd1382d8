"""memjs and memcached, of npm."""

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def node(server, modules, library, step):
    command = ["node", str(HERE / "js/clients.js"), library, step, server.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=modules)
    assert done.returncode == 0, f"{library} {step}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("library", ["memjs", "memcached"])
def test_node(server, restart, modules, library):
    node(server, modules, library, "fill")
    node(server, modules, library, "check")
    restart()
    node(server, modules, library, "check")
