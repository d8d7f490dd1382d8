"""The crates memcache and async-memcached: the package in rust/."""

import os
import subprocess
from pathlib import Path

import pytest

from conftest import TARGET

PACKAGE = Path(__file__).resolve().parent / "rust/Cargo.toml"


@pytest.fixture(scope="module")
def program():
    command = ["cargo", "build", "--locked", "--manifest-path", str(PACKAGE)]
    # Procedural macros are no static programs.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "RUSTFLAGS": "-C target-feature=-crt-static"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr
    return TARGET / "debug/kingserver-clients"


@pytest.mark.parametrize("client", ["memcache", "memcache-ascii", "async-memcached"])
def test_rust(server, restart, program, client):
    def run(step):
        done = subprocess.run([program, client, step, server.address], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{client} {step}: {done.stderr}"

    run("fill")
    run("check")
    restart()
    run("check")
