"""Sizes and times that pictures/fetch.py keeps to, against real servers on loopback. No MindSpore."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from mindformers_qwenvl.pictures.fetch import fetch
from mindformers_qwenvl.pictures.images import open_image
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from tests.support.web import PATIENT, picture, raw_server

LOCAL = ImagePolicy(allow_private=["127.0.0.1"], **PATIENT)
LONG = 60  # seconds that nothing takes which ends by itself, on a machine that stands still for a while

# ---- sizes


def test_bytes_are_limited_by_what_is_announced_and_by_what_comes(web):
    policy = ImagePolicy(allow_private=True, max_bytes=1000, **PATIENT)
    assert len(fetch(web.page("/fits", bytes(1000)), policy).data) == 1000
    with pytest.raises(ImageRefusedError, match="1001 bytes, more than the 1000") as error:
        fetch(web.page("/announced", bytes(1001)), policy)
    assert error.value.rule == "max_bytes"
    with pytest.raises(ImageRefusedError, match="more than the 1000 bytes"):
        fetch(web.page("/not-announced", bytes(100_000), Content_Length=""), policy)


def test_a_body_without_end_is_not_read_to_its_end():
    sent = []

    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            sent.append(connection.send(bytes(1 << 16)))

    with raw_server(talk) as port:
        policy = ImagePolicy(allow_private=True, max_bytes=1 << 20, **PATIENT)
        with pytest.raises(ImageRefusedError, match="more than the 1048576 bytes"):
            fetch(f"http://127.0.0.1:{port}/a.png", policy)
    assert sum(sent) < 50 << 20  # what the sockets hold beside the megabyte


def test_pixels_are_limited_before_they_are_decoded(web):
    url = web.page("/large.png", picture("PNG", (100, 100)))
    with pytest.raises(ImageRefusedError, match=r"large\.png: 100x100 pixels, more than the 9999") as error:
        open_image(url, policy=ImagePolicy(allow_private=True, max_pixels=9999, **PATIENT))
    assert error.value.rule == "max_pixels"


def test_bodies_that_are_cut_off(web):
    with pytest.raises(ImageError, match=r"cut off after 10 of 99 bytes"):
        fetch(web.page("/length", bytes(10), Content_Length="99"), LOCAL)
    with pytest.raises(ImageError, match="cut off, the last piece"):
        fetch(web.page("/chunk", b"9\r\nabc", Transfer_Encoding="chunked", Content_Length=""), LOCAL)


# ---- time


@pytest.mark.parametrize(
    ("head", "piece"), [(b"", b""), (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"")], ids=["headers", "body"]
)
def test_silence_ends_at_read_timeout(head, piece):
    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(head)
        over.wait()

    policy = ImagePolicy(allow_private=True, **{**PATIENT, "read_timeout": 0.1})
    _refused_in_time(talk, policy, "read_timeout", "took more than 0.1 s")
    policy = ImagePolicy(allow_private=True, **{**PATIENT, "total_timeout": 0.1})
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.1 s")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["headers", "body"])
def test_a_byte_now_and_then_ends_at_total_timeout(head):
    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(head)
        while not over.wait(0.05):
            connection.sendall(b"x")

    policy = ImagePolicy(allow_private=True, **{**PATIENT, "total_timeout": 0.4})
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.4 s")


def _refused_in_time(talk, policy, rule, reason, scheme="http"):
    with raw_server(talk) as port:
        start = time.monotonic()
        with pytest.raises(ImageRefusedError, match=reason) as error:
            fetch(f"{scheme}://127.0.0.1:{port}/a.png", policy)
        assert time.monotonic() - start < LONG
    assert error.value.rule == rule and f"image_policy: {{{rule}: ...}}" in str(error.value)


def test_redirects_share_the_total_time(web):
    def talk(connection, over):
        connection.recv(4096)
        over.wait(0.15)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    policy = ImagePolicy(allow_private=True, max_redirects=100, **{**PATIENT, "total_timeout": 0.5})
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.5 s")


def test_connections_and_handshakes_end_at_connect_timeout():
    policy = ImagePolicy(allow_private=True, **{**PATIENT, "connect_timeout": 0.2})
    _refused_in_time(lambda connection, over: over.wait(), policy, "connect_timeout", "0.2 s", scheme="https")
    over = threading.Event()
    try:
        with pytest.raises(ImageRefusedError, match=r"slow\.test took more than 0\.2 s") as error:
            fetch("http://slow.test/a.png", policy, resolver=lambda host, port: over.wait() and [])
        assert error.value.rule == "connect_timeout"
    finally:
        over.set()
    with contextlib.ExitStack() as stack:  # a server whose queue is full takes no more connections
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with pytest.raises(ImageRefusedError, match=r"127\.0\.0\.1 took more than 0\.2 s"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a.png", policy)
