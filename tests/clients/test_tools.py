"""libmemcached's command line tools: memcping, memccp, memccat, memcrm, memctouch, memcexist, memcstat, memcflush, memcslap."""

import subprocess

from values import noise


def tool(server, name, *args):
    done = subprocess.run([name, f"--servers={server.address}", *args], capture_output=True, timeout=60)
    assert done.returncode == 0, f"{name} {args}: {done.returncode}: {done.stdout!r} {done.stderr!r}"
    return done.stdout


def fails(server, name, *args):
    done = subprocess.run([name, f"--servers={server.address}", *args], capture_output=True, timeout=60)
    return done.returncode != 0


def test_ping(server):
    tool(server, "memcping")


def test_copy_and_show(server, tmp_path):
    files = {"small": b"a page\n", "large": noise(1, 900_000), "words": b"word " * 30_000}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        tool(server, "memccp", "--set", str(tmp_path / name))
    for name, content in files.items():
        copy = tmp_path / f"{name}.copy"
        tool(server, "memccat", f"--file={copy}", name)
        assert copy.read_bytes() == content
    assert tool(server, "memccat", "small").rstrip(b"\n") == b"a page"


def test_touch_exist_remove_flush(server, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        tool(server, "memccp", str(tmp_path / name))
    tool(server, "memctouch", "--expire=1000", "one")
    tool(server, "memcexist", "one")
    tool(server, "memcrm", "one")
    assert fails(server, "memccat", "one")
    assert fails(server, "memcexist", "one")
    tool(server, "memcflush")
    assert fails(server, "memccat", "two")


def test_dump(server, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        tool(server, "memccp", str(tmp_path / name))
    assert sorted(tool(server, "memcdump").split()) == [b"one", b"two"]


def test_stat(server):
    shown = tool(server, "memcstat").decode()
    assert "curr_items" in shown and str(server.port) in shown


def test_slap(server):
    for kind in ("set", "get", "mget"):
        tool(server, "memcslap", "--concurrency=8", "--execute-number=500", "--initial-load=1000", f"--test={kind}")
    tool(server, "memcslap", "--concurrency=4", "--execute-number=500", "--test=set", "--non-blocking", "--tcp-nodelay")
    tool(server, "memcping")


def test_caslap(server):
    """memcaslap, in the binary dialect: in text, too, each of its keys begins with eight control characters, which are refused."""
    shown = tool(server, "memcaslap", "--threads=2", "--concurrency=16", "--execute_number=20000", "--verify=0.2", "--binary").decode()
    counts = dict(line.split(": ") for line in shown.splitlines() if line.count(": ") == 1 and not line.startswith("Run"))
    assert int(counts["cmd_get"]) + int(counts["cmd_set"]) == 20_000, shown
    assert counts["get_misses"] == counts["verify_misses"] == counts["verify_failed"] == "0" and "ERROR" not in shown, shown
