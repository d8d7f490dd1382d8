"""nginx serves pages straight out of the server by its memcached_pass, restarts and kills included."""

import http.client
import os
import signal
from contextlib import closing

import pytest
from pymemcache.client.base import Client

from conftest import Process, accepts, free_port, until
from values import noise

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream kingserver {{
        server {backend} max_fails=0;
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            set $memcached_key $uri;
            memcached_pass kingserver;
            default_type text/html;
        }}
        location /flagged/ {{
            set $memcached_key $uri;
            memcached_gzip_flag 2;
            memcached_pass kingserver;
            default_type text/plain;
        }}
    }}
}}
"""


class Nginx:
    def __init__(self, directory, backend):
        self.port = free_port()
        configuration = directory / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(directory=directory, backend=backend, port=self.port))
        binary = "/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else "nginx"
        self.process = Process([binary, "-e", "stderr", "-p", str(directory), "-c", str(configuration)], directory)
        until("nginx accepts", lambda: self.process.running() and accepts(self.port))

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()


@pytest.fixture
def nginx(server, tmp_path):
    nginx = Nginx(tmp_path, server.address)
    yield nginx
    nginx.process.end(signal.SIGKILL)


def put(server, key, value, **options):
    with closing(Client(server.address, timeout=30)) as client:
        assert client.set(key, value, noreply=False, **options)


def test_page(server, nginx):
    put(server, "/page", b"<h1>straight out of the store</h1>")
    for _ in range(50):
        status, body, headers = nginx.get("/page")
        assert (status, body) == (200, b"<h1>straight out of the store</h1>")
        assert headers["Content-Type"] == "text/html"


def test_miss_is_404(server, nginx):
    assert nginx.get("/absent")[0] == 404
    put(server, "/gone", b"x")
    with closing(Client(server.address)) as client:
        client.delete("/gone", noreply=False)
    assert nginx.get("/gone")[0] == 404


def test_large_page(server, nginx):
    for size in (300 * 1024, 65_536, 65_537, 1_000_000, 0):
        put(server, f"/page{size}", noise(size, size))
        status, body, headers = nginx.get(f"/page{size}")
        assert status == 200 and body == noise(size, size)
        assert int(headers["Content-Length"]) == size


def test_flags_tell_what_is_compressed(server, nginx):
    put(server, "/flagged/page", b"as if it were gzip", flags=2)
    status, body, headers = nginx.get("/flagged/page")
    # The client accepts no gzip: nginx unpacks where it can, or says what it is.
    assert status in (200, 500) or headers.get("Content-Encoding") == "gzip"
    put(server, "/flagged/plain", b"plain", flags=0)
    assert nginx.get("/flagged/plain")[:2] == (200, b"plain")


def test_restart_in_between(server, nginx, restart):
    put(server, "/page", b"it stays")
    put(server, "/large", noise(3, 300 * 1024))
    assert nginx.get("/page")[:2] == (200, b"it stays")
    restart()
    # nginx may find its kept connections closed, once each.
    until("the page after a restart", lambda: nginx.get("/page")[:2] == (200, b"it stays"))
    assert nginx.get("/large")[1] == noise(3, 300 * 1024)
    assert nginx.get("/absent")[0] == 404
