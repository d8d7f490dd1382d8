"""Clients of the binary dialect: python-binary-memcached with its SASL, and pylibmc told to speak it."""

import subprocess

import bmemcached
import pylibmc
import pytest

from conftest import Server
from values import OBJECTS, SIZES, noise


def fill(client):
    for size in SIZES:
        assert client.set(f"k{size}", noise(size, size))
    for name, value in OBJECTS.items():
        assert client.set(name, value)


def check(client):
    for size in SIZES:
        assert client.get(f"k{size}") == noise(size, size)
    for name, value in OBJECTS.items():
        assert client.get(name) == value


def test_bmemcached(server):
    client = bmemcached.Client((server.address,))
    fill(client)
    check(client)
    assert client.get("absent") is None
    assert client.add("a", "1") and not client.add("a", "2")
    assert client.replace("a", "3") and not client.replace("b", "4")
    assert client.delete("a") and client.get("a") is None
    assert client.incr("n", 5) == 0 and client.incr("n", 5) == 5 and client.decr("n", 2) == 3
    value, unique = client.gets("number")
    assert value == OBJECTS["number"]
    assert client.cas("number", 1, unique) and not client.cas("number", 2, unique)
    wanted = {f"key{i}": str(i) for i in range(1000)}
    assert not client.set_multi(wanted)
    assert client.get_multi([*wanted, "absent"]) == wanted
    assert client.delete_multi(list(wanted))
    assert client.stats()
    assert client.flush_all() and client.get("number") is None
    client.disconnect_all()


def test_bmemcached_restart(server, restart):
    client = bmemcached.Client((server.address,))
    fill(client)
    client.disconnect_all()
    restart()
    client = bmemcached.Client((server.address,))
    check(client)
    client.disconnect_all()


@pytest.fixture
def guarded(tmp_path):
    """A server that asks who is there. (memcached needs another build for that.)"""
    if Server.peer:
        pytest.skip("this memcached has no SASL")
    users = tmp_path / "users"
    users.write_text("alice:secret\nbob:other\n")
    server = Server(tmp_path, "-Y", str(users))
    yield server
    server.stop()


def test_sasl(guarded):
    client = bmemcached.Client((guarded.address,), "alice", "secret")
    fill(client)
    check(client)
    client.disconnect_all()
    other = bmemcached.Client((guarded.address,), "bob", "other")
    assert other.get("text") == OBJECTS["text"]
    other.disconnect_all()


@pytest.mark.parametrize("name, password", [("alice", "other"), ("mallory", "secret"), ("alice", ""), ("alice", "secret2")])
def test_sasl_refuses(guarded, name, password):
    good = bmemcached.Client((guarded.address,), "alice", "secret")
    assert good.set("a", "1")
    with pytest.raises(bmemcached.exceptions.MemcachedException):
        bmemcached.Client((guarded.address,), name, password).get("a")
    assert good.get("a") == "1"


def test_pylibmc_sasl(guarded):
    client = pylibmc.Client([guarded.address], binary=True, username="bob", password="other")
    fill(client)
    check(client)
    with pytest.raises(pylibmc.Error, match="AUTHENTICATION FAILURE"):
        pylibmc.Client([guarded.address], binary=True, username="bob", password="secret").get("text")


def test_libmemcached_tools_sasl(guarded, tmp_path):
    (tmp_path / "page").write_text("a page")
    for password, status in ("secret", 0), ("other", 1):
        known = [f"--servers={guarded.address}", "--binary", "--username=alice", f"--password={password}"]
        for tool in ["memccp", *known, "--set", str(tmp_path / "page")], ["memccat", *known, "page"]:
            done = subprocess.run(tool, capture_output=True, timeout=60)
            assert done.returncode == status, f"{tool}: {done}"
            assert status or tool[0] == "memccp" or done.stdout.strip() == b"a page"


def test_pylibmc_binary(server):
    client = pylibmc.Client([server.address], binary=True, behaviors={"cas": True, "tcp_nodelay": True})
    fill(client)
    check(client)
    assert client.add("a", "1") and not client.add("a", "2")
    assert client.append("a", ">") and client.prepend("a", "<") and client.get("a") == "<1>"
    assert client.set("n", 10) and client.incr("n") == 11 and client.decr("n", 200) == 0
    value, unique = client.gets("number")
    assert client.cas("number", 2, unique) and not client.cas("number", 3, unique)
    assert client.touch("a", 200)
    wanted = {f"key{i}": noise(i, i % 3000) for i in range(1000)}
    assert client.set_multi(wanted) == []
    assert client.get_multi([*wanted, "absent"]) == wanted
    assert client.delete_multi(list(wanted)) and client.get_multi(list(wanted)) == {}
    assert client.flush_all() and client.get("a") is None


def test_pylibmc_binary_restart(server, restart):
    client = pylibmc.Client([server.address], binary=True)
    fill(client)
    client.disconnect_all()
    restart()
    check(pylibmc.Client([server.address], binary=True))


def test_tools_binary(server, tmp_path):
    (tmp_path / "page").write_bytes(noise(1, 300_000))
    for command in (["memccp", "--set", str(tmp_path / "page")], ["memccat", f"--file={tmp_path}/copy", "page"], ["memcrm", "page"]):
        done = subprocess.run([command[0], f"--servers={server.address}", "--binary", *command[1:]], capture_output=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout!r} {done.stderr!r}"
    assert (tmp_path / "copy").read_bytes() == noise(1, 300_000)
