"""aiomcache, and meta-memcache, which speaks the meta dialect and nothing else."""

import asyncio

import aiomcache
from meta_memcache import CacheClient, Key, LeasePolicy, RequestFlags, ServerAddress, StalePolicy, connection_pool_factory_builder

from values import OBJECTS, SIZES, noise


def test_aiomcache(server, restart):
    async def fill():
        client = aiomcache.Client("127.0.0.1", server.port)
        for size in SIZES:
            assert await client.set(b"k%d" % size, noise(size, size))
        assert await client.add(b"a", b"1") and not await client.add(b"a", b"2")
        assert await client.replace(b"a", b"3") and await client.append(b"a", b">") and await client.prepend(b"a", b"<")
        assert await client.get(b"a") == b"<3>"
        value, unique = await client.gets(b"a")
        assert await client.cas(b"a", b"4", unique) and not await client.cas(b"a", b"5", unique)
        await client.set(b"n", b"10")
        assert await client.incr(b"n", 5) == 15 and await client.decr(b"n", 20) == 0
        assert await client.touch(b"a", 100)
        assert await client.get(b"absent") is None
        assert (await client.multi_get(b"a", b"absent", b"n"))[:2] == (b"4", None)
        assert await client.stats()
        # Many at once over its pool of connections.
        await asyncio.gather(*(client.set(b"m%d" % i, b"%d" % i) for i in range(500)))
        assert await asyncio.gather(*(client.get(b"m%d" % i) for i in range(500))) == [b"%d" % i for i in range(500)]
        await client.close()

    async def check():
        client = aiomcache.Client("127.0.0.1", server.port)
        for size in SIZES:
            assert await client.get(b"k%d" % size) == noise(size, size)
        assert await client.delete(b"a") and not await client.delete(b"a")
        await client.close()

    asyncio.run(fill())
    restart()
    asyncio.run(check())


def meta_client(server):
    servers = [ServerAddress("127.0.0.1", server.port)]
    return CacheClient.cache_client_from_servers(servers=servers, connection_pool_factory_fn=connection_pool_factory_builder())


def test_meta_memcache(server):
    client = meta_client(server)
    assert client.get("absent") is None
    assert client.set("a", "1", ttl=1000) and client.get("a") == "1"
    assert client.set("ключ", {"a": [1, 2]}, ttl=1000) and client.get("ключ") == {"a": [1, 2]}
    value, unique = client.get_cas("a")
    assert client.set("a", "2", ttl=1000, cas_token=unique) and not client.set("a", "3", ttl=1000, cas_token=unique)
    assert client.touch("a", ttl=2000) and not client.touch("absent", ttl=1)
    assert client.delete("a") and client.get("a") is None
    assert client.delta_initialize_and_get("n", delta=5, initial_value=10, initial_ttl=1000) == 10
    assert client.delta_and_get("n", delta=5) == 15 and client.delta_and_get("n", delta=-20) == 0
    keys = [f"m{i}" for i in range(1000)]
    for key in keys:
        assert client.set(key, key, ttl=1000)
    assert client.multi_get([*map(Key, keys), Key("absent")]) == {**{Key(key): key for key in keys}, Key("absent"): None}


def test_meta_memcache_leases(server):
    """One client is told to bring a missing or stale value, and the others are not."""
    first, second = meta_client(server), meta_client(server)
    lease = LeasePolicy(ttl=30, miss_retries=1, miss_retry_wait=0.01)
    assert first.get_or_lease("a", lease_policy=lease) is None
    assert second.get_or_lease_cas("a", lease_policy=lease)[0] is None
    assert first.set("a", "fresh", ttl=1000)
    assert second.get_or_lease("a", lease_policy=lease) == "fresh"
    stale = StalePolicy(mark_stale_on_deletion_ttl=30)
    assert first.delete("a", stale_policy=stale)
    # The winner gets a miss, and whoever comes after it the old value.
    assert first.get("a") is None
    assert second.get("a") == "fresh"
    assert first.set("a", "fresher", ttl=1000)
    assert second.get("a") == "fresher"


def test_meta_memcache_restart(server, restart):
    # It takes half a minute for a megabyte, from memcached as well.
    sizes = [size for size in SIZES if size < 10_000]
    client = meta_client(server)
    for size in sizes:
        assert client.set(f"k{size}", noise(size, size), ttl=None)
    for name, value in OBJECTS.items():
        assert client.set(name, value, ttl=None)
    assert client.get_or_lease("leased", lease_policy=LeasePolicy(ttl=1000)) is None
    restart()
    client = meta_client(server)
    for size in sizes:
        assert client.get(f"k{size}") == noise(size, size)
    for name, value in OBJECTS.items():
        assert client.get(name) == value
    # The lease was given before the restart, so nobody else gets it.
    flags = client.meta_get(Key("leased"), flags=RequestFlags(return_value=True)).flags
    assert flags.win is not True
