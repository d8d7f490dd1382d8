"""pylibmc, which is libmemcached: the C client that PHP, Ruby and others stand on."""

import threading

import pylibmc
import pytest
from conftest import Server

from values import OBJECTS, SIZES, noise


@pytest.fixture
def client(server):
    client = pylibmc.Client([server.address], behaviors={"cas": True})
    yield client
    client.disconnect_all()


def test_values_of_every_size(client):
    for size in SIZES:
        assert client.set(f"k{size}", noise(size, size))
    for size in SIZES:
        assert client.get(f"k{size}") == noise(size, size)


def test_objects(client):
    for name, value in OBJECTS.items():
        assert client.set(name, value)
        got = client.get(name)
        assert got == value


def test_storage_commands(client):
    assert client.get("a") is None
    assert client.add("a", "1")
    assert not client.add("a", "2")
    assert client.replace("a", "3")
    assert not client.replace("b", "4")
    assert client.append("a", ">") and client.prepend("a", "<")
    assert client.get("a") == "<3>"
    assert client.delete("a")
    assert not client.delete("a")


def test_many_at_once(client):
    wanted = {f"key{i}": noise(i, i % 3000) for i in range(3000)}
    assert client.set_multi(wanted) == []
    assert client.get_multi([*wanted, "absent"]) == wanted
    assert client.delete_multi(list(wanted))
    assert client.get_multi(list(wanted)) == {}


def test_cas(client):
    client.set("a", 1)
    value, unique = client.gets("a")
    assert value == 1
    assert client.cas("a", 2, unique)
    assert not client.cas("a", 3, unique)
    assert client.get("a") == 2


def test_arithmetic(client):
    client.set("n", 10)
    assert client.incr("n") == 11
    assert client.incr("n", 100) == 111
    assert client.decr("n", 200) == 0
    with pytest.raises(pylibmc.NotFound):
        client.incr("absent")


def test_expiry_and_flush(client):
    client.set("a", 1, time=100)
    assert client.touch("a", 200)
    assert not client.touch("absent", 200)
    assert client.get("a") == 1
    assert client.flush_all()
    assert client.get("a") is None


def test_refusals_leave_the_connection_in_step(tmp_path):
    server = Server(tmp_path, "-I", "1m")
    client = pylibmc.Client([server.address], behaviors={"cas": True})
    with pytest.raises(pylibmc.Error):
        client.set("a", noise(1, 2 << 20))
    client.set("b", 1)
    assert client.get("b") == 1
    client.disconnect_all()
    server.stop()


def test_stats(client):
    (name, stats), = client.get_stats()
    assert stats["curr_items"] in ("0", b"0")


def test_compressed_by_the_client(client):
    assert client.set("a", "text " * 50_000, min_compress_len=1000)
    assert client.get("a") == "text " * 50_000


@pytest.mark.parametrize("behaviors", [{"tcp_nodelay": True}, {"no_block": True}, {"hash": "crc", "distribution": "consistent"}])
def test_behaviors(server, behaviors):
    client = pylibmc.Client([server.address], behaviors=behaviors)
    for i in range(500):
        client.set(f"k{i}", noise(i, 500))
    wanted = {f"k{i}": noise(i, 500) for i in range(500)}
    assert client.get_multi(list(wanted)) == wanted


def test_threads(server):
    master = pylibmc.Client([server.address])
    pool = pylibmc.ThreadMappedPool(master)
    master.set("n", 0)

    def work():
        with pool.reserve() as client:
            for _ in range(200):
                client.incr("n")
        pool.relinquish()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert master.get("n") == 1600


def test_restart(server, restart):
    client = pylibmc.Client([server.address])
    assert client.set_multi(OBJECTS) == []
    assert client.set("large", noise(1, 1_000_000))
    client.disconnect_all()
    restart()
    client = pylibmc.Client([server.address])
    assert client.get_multi(list(OBJECTS)) == OBJECTS
    assert client.get("large") == noise(1, 1_000_000)
