"""Django's two memcached backends, by the behaviour that its documentation promises of every cache."""

import pytest
from django.conf import settings
from django.core.cache.backends.base import InvalidCacheKey

from values import OBJECTS, SIZES, noise

if not settings.configured:
    settings.configure()

from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache  # noqa: E402


@pytest.fixture(params=[PyMemcacheCache, PyLibMCCache])
def cache(request, server):
    def connect(**parameters):
        return request.param([server.address], {"TIMEOUT": 300, **parameters})
    connect.default = connect()
    return connect


def test_values(cache):
    cache = cache.default
    for name, value in OBJECTS.items():
        cache.set(name, value)
        assert cache.get(name) == value
    for size in SIZES[:-1]:
        cache.set(f"k{size}", noise(size, size))
        assert cache.get(f"k{size}") == noise(size, size)
    assert cache.get("absent") is None and cache.get("absent", "default") == "default"
    sentinel = object()
    cache.set("none", None)
    assert cache.get("none", sentinel) is None and cache.get("absent", sentinel) is sentinel


def test_add_delete_and_presence(cache):
    cache = cache.default
    assert cache.add("a", 1) and not cache.add("a", 2) and cache.get("a") == 1
    assert "a" in cache and cache.has_key("a") and "absent" not in cache
    assert cache.delete("a") and not cache.delete("a") and cache.get("a") is None
    assert cache.get_or_set("b", lambda: "made") == "made" and cache.get_or_set("b", "other") == "made"


def test_arithmetic(cache):
    cache = cache.default
    cache.set("n", 41)
    assert cache.incr("n") == 42 and cache.incr("n", 10) == 52 and cache.decr("n") == 51 and cache.incr("n", -10) == 41
    for change in (cache.incr, cache.decr):
        with pytest.raises(ValueError):
            change("absent")


def test_many(cache):
    cache = cache.default
    wanted = {f"key{i}": i for i in range(1000)}
    assert cache.set_many(wanted) == []
    assert cache.get_many([*wanted, "absent"]) == wanted
    cache.delete_many(wanted)
    assert cache.get_many(wanted) == {}
    cache.set("a", 1)
    cache.clear()
    assert cache.get("a") is None


def test_expiry(cache):
    cache = cache.default
    cache.set("gone", 1, 0)
    cache.set("past", 1, -1)
    assert cache.get("gone") is None and cache.get("past") is None
    cache.set("kept", 1, 60 * 60 * 24 * 30 + 1)
    cache.set("forever", 1, None)
    assert cache.get("kept") == 1 and cache.get("forever") == 1
    assert cache.touch("kept", 100) and cache.touch("kept", None) and not cache.touch("absent")
    assert cache.touch("kept", 0) and cache.get("kept") is None


def test_versions_and_prefixes(cache):
    cache, other, prefixed = cache.default, cache(VERSION=2), cache(KEY_PREFIX="site")
    cache.set("a", "one")
    assert other.get("a") is None and prefixed.get("a") is None
    other.set("a", "two")
    assert cache.get("a") == "one" and cache.get("a", version=2) == "two"
    assert cache.incr_version("a", 4) == 5 and cache.get("a", version=5) == "one" and cache.get("a") is None


def test_keys(cache):
    cache = cache.default
    cache.set("ключ", "value")
    assert cache.get("ключ") == "value"
    for key in ("with spaces", "\x01control", "k" * 251):
        with pytest.raises(InvalidCacheKey):
            cache.set(key, 1)


def test_restart(cache, restart):
    before = cache.default
    assert before.set_many(OBJECTS) == []
    before.close()
    restart()
    after = cache()
    assert after.get_many(OBJECTS) == OBJECTS
