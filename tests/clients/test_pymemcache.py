"""pymemcache with its own defaults: among them noreply for every write that can have it."""

import pickle
from contextlib import closing

import pytest
from conftest import Server
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheIllegalInputError, MemcacheServerError
from pymemcache.serde import pickle_serde

from values import OBJECTS, SIZES, noise


@pytest.fixture
def client(server):
    with closing(Client(server.address, timeout=30)) as client:
        yield client


def test_values_of_every_size(client):
    for size in SIZES:
        assert client.set(f"k{size}", noise(size, size))
    for size in SIZES:
        assert client.get(f"k{size}") == noise(size, size)


def test_storage_commands(client):
    assert client.get("a") is None
    assert client.get("a", "default") == "default"
    assert client.add("a", b"1", noreply=False)
    assert not client.add("a", b"2", noreply=False)
    assert client.replace("a", b"3", noreply=False)
    assert not client.replace("b", b"4", noreply=False)
    assert client.append("a", b">", noreply=False) and client.prepend("a", b"<", noreply=False)
    assert client.get("a") == b"<3>"
    assert client.delete("a", noreply=False)
    assert not client.delete("a", noreply=False)


def test_everything_without_replies(client):
    """The defaults: nothing may be answered, or the connection is out of step."""
    for i in range(30):
        client.set("a", b"1")
        client.add("b", b"5")
        client.replace("a", b"2")
        client.append("a", b"3")
        client.prepend("a", b"1")
        client.incr("b", 2, noreply=True)
        client.decr("b", 2, noreply=True)
        client.touch("b", 100)
        client.delete("c")
        assert client.get("a") == b"123"
    assert client.get("b") == b"5"
    client.flush_all()
    assert client.get("a") is None


def test_many_at_once(client):
    wanted = {f"key{i}": noise(i, i % 3000) for i in range(3000)}
    assert client.set_many(wanted) == []
    assert client.get_many([*wanted, "absent"]) == wanted
    assert len(client.gets_many(list(wanted))) == len(wanted)
    assert client.delete_many(list(wanted))
    assert client.get_many(list(wanted)) == {}


def test_cas(client):
    client.set("a", b"1")
    value, unique = client.gets("a")
    assert value == b"1"
    assert client.cas("a", b"2", unique) is True
    assert client.cas("a", b"3", unique) is False
    assert client.cas("absent", b"3", unique) is None
    assert client.get("a") == b"2"


def test_arithmetic(client):
    client.set("n", b"18446744073709551615")
    assert client.incr("n", 1) == 0
    assert client.incr("n", 10) == 10
    assert client.decr("n", 20) == 0
    assert client.incr("absent", 1) is None
    client.set("n", b"words")
    with pytest.raises(MemcacheClientError):
        client.incr("n", 1)


def test_expiry(client):
    client.set("a", b"1", expire=100)
    assert client.touch("a", 200, noreply=False)
    assert not client.touch("absent", 200, noreply=False)
    assert client.get("a") == b"1"
    client.set("a", b"1", expire=-1)
    assert client.get("a") is None


def test_refusals_leave_the_connection_in_step(tmp_path):
    server = Server(tmp_path, "-I", "1m")
    with closing(Client(server.address, timeout=30)) as client:
        with pytest.raises(MemcacheServerError):
            client.set("a", b"x" * (2 << 20), noreply=False)
        assert client.get("a") is None
        with pytest.raises(MemcacheIllegalInputError):
            client.set("k" * 251, b"x")
        client.set("k" * 250, b"x")
        assert client.get("k" * 250) == b"x"
    server.stop()


def test_stats_and_version(client):
    assert client.version()
    assert client.stats()[b"curr_items"] == 0
    assert b"maxconns" in client.stats("settings")


@pytest.mark.parametrize("name", OBJECTS)
def test_pickled_objects(server, name):
    with closing(Client(server.address, serde=pickle_serde)) as client:
        client.set(name, OBJECTS[name])
        assert client.get(name) == OBJECTS[name]


def test_restart(server, restart):
    with closing(Client(server.address, serde=pickle_serde)) as client:
        client.set_many({**OBJECTS, **{f"k{size}": noise(size, size) for size in SIZES}}, noreply=False)
        unique = client.gets("number")[1]
    restart()
    with closing(Client(server.address, serde=pickle_serde)) as client:
        for name, value in OBJECTS.items():
            assert client.get(name) == value
        for size in SIZES:
            assert client.get(f"k{size}") == noise(size, size)
        assert client.cas("number", 5, unique) is True
        assert pickle.dumps(client.get("number")) == pickle.dumps(5)


def test_unix_socket(server):
    if server.peer:
        pytest.skip("memcached listens on one or the other")
    with closing(Client(f"unix:{server.socket}")) as client:
        client.set("a", b"by socket", noreply=False)
    with closing(Client(server.address)) as client:
        assert client.get("a") == b"by socket"


def test_pool_and_hash_clients(server):
    pool = PooledClient(server.address, max_pool_size=4)
    for i in range(100):
        pool.set(f"k{i}", str(i).encode(), noreply=False)
    hashed = HashClient([server.address], use_pooling=True)
    assert hashed.get_many([f"k{i}" for i in range(100)]) == {f"k{i}": str(i).encode() for i in range(100)}
    pool.close()
    hashed.close()
