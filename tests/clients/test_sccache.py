"""sccache compiles a small program with the server as its cache; after a kill -9 of the server everything is found there."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from conftest import free_port

ROOT = Path(__file__).resolve().parents[2]
SCCACHE = Path(os.sys.prefix) / "bin/sccache"


@pytest.fixture
def sccache(server, tmp_path):
    """Runs sccache, with a daemon of its own, in this environment."""
    environment = {**os.environ, "SCCACHE_MEMCACHED_ENDPOINT": f"tcp://{server.address}", "SCCACHE_SERVER_PORT": str(free_port()),
                   "SCCACHE_DIR": str(tmp_path / "unused"), "RUSTC_WRAPPER": str(SCCACHE), "CARGO_INCREMENTAL": "0",
                   "SCCACHE_IDLE_TIMEOUT": "600"}
    environment.pop("RUSTFLAGS", None)

    def run(*command, **more):
        done = subprocess.run(list(map(str, command)), env={**environment, **more}, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    yield run
    subprocess.run([SCCACHE, "--stop-server"], env=environment, capture_output=True, timeout=60)


def build(sccache, target):
    """This project, or in the smaller tiers two of its crates."""
    what = ["--bin", "kingserver"] if os.environ.get("TIER") == "full" else ["-p", "getopts", "-p", "snap"]
    sccache("cargo", "build", "--locked", *what, CARGO_TARGET_DIR=str(target))


def counts(sccache):
    stats = json.loads(sccache(SCCACHE, "--show-stats", "--stats-format=json"))["stats"]
    hits, misses = (sum(stats[name]["counts"].values()) for name in ("cache_hits", "cache_misses"))
    assert not stats["cache_errors"]["counts"] and stats["cache_write_errors"] == 0, stats
    return hits, misses


def test_compile_kill_compile(server, sccache, tmp_path):
    if server.peer:
        pytest.skip("memcached keeps nothing")
    target = tmp_path / "target"
    build(sccache, target)
    hits, misses = counts(sccache)
    assert hits == 0 and misses >= 3, "everything had to be compiled"
    server.kill()
    server.start()
    sccache(SCCACHE, "--stop-server")
    subprocess.run(["rm", "-rf", target], check=True)
    build(sccache, target)
    found, compiled = counts(sccache)
    print(f"sccache: {misses} compiled, and {found} of them found after a kill")
    assert (found, compiled) == (misses, 0)
