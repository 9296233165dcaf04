"""data/fetch.py against real servers on loopback, which the policy of a test allows by name. No MindSpore."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time

import pytest
from PIL import Image

from mindformers_qwenvl.data.fetch import decode_data_uri, fetch
from mindformers_qwenvl.data.image_policy import ImageError, ImagePolicy, ImageRefusedError
from mindformers_qwenvl.data.images import open_image
from tests.data_pipeline.web import TLS, TLS_NAME, closed_port, picture, raw_server, site

LOCAL = ImagePolicy(allow_private=["127.0.0.1"])
PNG = picture()


@pytest.fixture
def web():
    with site() as served:
        yield served


class Names:
    """A resolver that knows the names it is told; `asked` are those it was asked for."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("__", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[host]


# ---- what works


def test_a_picture_is_fetched(web):
    url = web.page("/a.png", PNG, Content_Type="image/png")
    download = fetch(url, LOCAL)
    assert (download.data, download.content_type, download.url) == (PNG, "image/png", url)
    assert open_image(url, policy=LOCAL).tobytes() == Image.open(io.BytesIO(PNG)).convert("RGB").tobytes()
    assert open_image(url.replace("http", "HTTP"), root="/nowhere", policy=LOCAL).size == (20, 12)


def test_the_request_is_that_of_the_address(web):
    web.page("/%C3%A4%20b%2F.png?q=%C3%BC&r=1%202", PNG)
    assert fetch(web.url("/ä b%2F.png?q=ü&r=1 2#part"), LOCAL).data == PNG
    web.page("/", PNG)
    assert fetch(web.url(""), LOCAL).data == PNG
    assert {host for _, host in web.seen} == {f"127.0.0.1:{web.port}"}


def test_chunks_and_bodies_without_a_length(web):
    body = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (PNG[:7], PNG[7:], b""))
    url = web.page("/chunks", body, Transfer_Encoding="chunked", Content_Length="")
    assert fetch(url, LOCAL).data == PNG
    assert fetch(web.page("/length", PNG, Content_Length=""), LOCAL).data == PNG


# ---- addresses


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "LOCALHOST"),
        *("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "[::]", "ｌocalhost"),
    ],
)
def test_this_machine_is_refused_by_every_name_it_has(web, host):
    with pytest.raises(ImageRefusedError, match=r"which is (loopback|unspecified)"):
        fetch(web.url("/a.png", host))
    assert not web.seen


def test_a_refusal_says_how_to_allow(web):
    with pytest.raises(ImageRefusedError) as error:
        open_image(web.page("/a.png", PNG))
    assert error.value.rule == "allow_private"
    assert "rule allow_private; image_policy: {allow_private: ['127.0.0.1']} allows it" in str(error.value)
    assert str(error.value).startswith(f"image {web.url('/a.png')}: the host 127.0.0.1 has the address 127.0.0.1")


@pytest.mark.parametrize("bad", ["10.0.0.1", "::1", "169.254.169.254", "::ffff:192.168.1.1", "fe80::1%1", "224.0.0.1"])
def test_one_bad_address_among_good_ones_is_enough(web, bad):
    names = Names(mixed__test=["127.0.0.1", "93.184.216.34", bad])
    with pytest.raises(ImageRefusedError, match=r"mixed\.test has the address"):
        fetch(web.url("/a.png", "mixed.test"), LOCAL, resolver=names)
    assert not web.seen and names.asked == ["mixed.test"]


def test_the_address_that_was_checked_is_the_one_connected_to(web):
    web.page("/a.png", PNG)
    names = Names(pictures__test=["127.0.0.1"])  # nobody but this resolver knows the name
    assert fetch(web.url("/a.png", "Pictures.test"), LOCAL, resolver=names).data == PNG
    assert names.asked == ["pictures.test"] and web.seen == [("/a.png", f"pictures.test:{web.port}")]


def test_the_next_address_is_tried_if_one_does_not_answer(web):
    names = Names(two__test=["127.0.0.2", "127.0.0.1"])
    policy = ImagePolicy(allow_private=["127.0.0.0/8"])
    web.page("/a.png", PNG)
    assert fetch(web.url("/a.png", "two.test"), policy, resolver=names).data == PNG


def test_names_without_an_address():
    with pytest.raises(ImageError, match=r"no\.test: .*Name or service not known"):
        fetch("http://no.test/a.png", resolver=Names())
    with pytest.raises(ImageError, match="has no address"):
        fetch("http://no.test/a.png", resolver=Names(no__test=[]))
    with pytest.raises(ImageError, match="cannot be resolved"):
        fetch(f"http://{'a' * 64}.test/a.png")


# ---- hosts


@pytest.mark.parametrize(
    ("allowed", "host", "passes"),
    [
        (["pictures.test"], "pictures.test", True),
        (["Pictures.TEST."], "pictures.test", True),
        (["pictures.test"], "a.pictures.test", False),
        (["pictures.test"], "notpictures.test", False),
        (["*.pictures.test"], "a.b.pictures.test", True),
        (["*.pictures.test"], "pictures.test", False),
        (["*.pictures.test"], "evilpictures.test", False),
        ([], "pictures.test", False),
        (["x.test", "127.0.0.1"], "127.0.0.1", True),
    ],
)
def test_allow_hosts(web, allowed, host, passes):
    policy = ImagePolicy(allow_hosts=allowed, allow_private=["127.0.0.1"])
    names = Names(**{host.replace(".", "__"): ["127.0.0.1"]})
    web.page("/a.png", PNG)
    if passes:
        assert fetch(web.url("/a.png", host), policy, resolver=names).data == PNG
        return
    with pytest.raises(ImageRefusedError, match="is none of those allowed") as error:
        fetch(web.url("/a.png", host), policy, resolver=names)
    assert error.value.rule == "allow_hosts" and f"add {host} to" in str(error.value)
    assert not names.asked and not web.seen  # it is not even looked up


# ---- redirects


def test_redirects_are_followed_to_allowed_places(web):
    web.page("/c/a.png", PNG)
    web.redirect("/b/second", "../c/a.png", 307)
    url = web.redirect("/first", web.url("/b/second"))
    download = fetch(url, LOCAL)
    assert download.data == PNG and download.url == web.url("/c/a.png")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://10.0.0.1/a.png", "10.0.0.1, which is private"),
        ("//[fd00::1]/a.png", "fd00::1, which is private"),
        ("http://inside.test/a.png", "inside.test has the address 192.168.0.7"),
        ("file:///etc/passwd", "only http and https"),
        ("data:image/png;base64,AAAA", "only http and https"),
        ("ftp://127.0.0.1/a.png", "only http and https"),
        ("http://user:secret@127.0.0.1/", "user name or password"),
    ],
)
def test_redirects_are_judged_anew(web, location, reason):
    url = web.redirect("/first", location)
    with pytest.raises(ImageRefusedError, match=reason) as error:
        fetch(url, LOCAL, resolver=Names(inside__test=["192.168.0.7"]))
    assert f"{url} -> " in str(error.value) and [path for path, _ in web.seen] == ["/first"]


def test_redirects_leave_the_allowed_hosts_no_more_than_addresses_do(web):
    policy = ImagePolicy(allow_hosts=["good.test"], allow_private=["127.0.0.1"])
    web.redirect("/first", web.url("/a.png", "other.test"))
    web.page("/a.png", PNG)
    names = Names(good__test=["127.0.0.1"], other__test=["127.0.0.1"])
    with pytest.raises(ImageRefusedError, match=r"other\.test is none of those allowed"):
        fetch(web.url("/first", "good.test"), policy, resolver=names)
    assert names.asked == ["good.test"]


def test_the_number_of_redirects_is_limited(web):
    web.redirect("/round", "/round")
    with pytest.raises(ImageRefusedError, match="more than 3 redirects") as error:
        fetch(web.url("/round"), LOCAL)
    assert error.value.rule == "max_redirects" and len(web.seen) == 4
    with pytest.raises(ImageRefusedError, match="more than 0 redirects"):
        fetch(web.url("/round"), ImagePolicy(allow_private=True, max_redirects=0))
    with pytest.raises(ImageError, match="without saying where"):
        fetch(web.page("/nowhere", b"", 302), LOCAL)


# ---- TLS


@pytest.fixture
def secure(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))
    with site(tls=True) as served:
        served.page("/a.png", PNG)
        yield served


def test_https_asks_for_the_name_and_holds_the_certificate_against_it(secure):
    names = Names(pictures__test=["127.0.0.1"], other__test=["127.0.0.1"])
    assert fetch(secure.url("/a.png", TLS_NAME), LOCAL, resolver=names).data == PNG
    assert secure.names == [TLS_NAME] and secure.seen == [("/a.png", f"{TLS_NAME}:{secure.port}")]
    for host in ("other.test", "127.0.0.1"):
        with pytest.raises(ImageError, match=rf"certificate of {host} is not valid: .*mismatch"):
            fetch(secure.url("/a.png", host), LOCAL, resolver=names)
    assert len(secure.seen) == 1


def test_https_with_an_unknown_authority(secure, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ImageError, match=r"self.signed certificate; .* set SSL_CERT_FILE"):
        fetch(secure.url("/a.png", TLS_NAME), LOCAL, resolver=Names(pictures__test=["127.0.0.1"]))
    assert not secure.seen


def test_https_is_not_left_for_http(secure, web):
    secure.redirect("/first", web.page("/a.png", PNG))
    with pytest.raises(ImageRefusedError, match="redirected from https to http://"):
        fetch(secure.url("/first", TLS_NAME), LOCAL, resolver=Names(pictures__test=["127.0.0.1"]))
    assert not web.seen
    web.redirect("/first", secure.url("/a.png", TLS_NAME))  # the other way is fine
    assert fetch(web.url("/first"), LOCAL, resolver=Names(pictures__test=["127.0.0.1"])).data == PNG


# ---- sizes


def test_bytes_are_limited_by_what_is_announced_and_by_what_comes(web):
    policy = ImagePolicy(allow_private=True, max_bytes=1000)
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
        policy = ImagePolicy(allow_private=True, max_bytes=1 << 20)
        with pytest.raises(ImageRefusedError, match="more than the 1048576 bytes"):
            fetch(f"http://127.0.0.1:{port}/a.png", policy)
    assert sum(sent) < 50 << 20  # what the sockets hold beside the megabyte


def test_pixels_are_limited_before_they_are_decoded(web):
    url = web.page("/large.png", picture("PNG", (100, 100)))
    with pytest.raises(ImageRefusedError, match=r"large\.png: 100x100 pixels, more than the 9999") as error:
        open_image(url, policy=ImagePolicy(allow_private=True, max_pixels=9999))
    assert error.value.rule == "max_pixels"


def test_bodies_that_are_cut_off(web):
    with pytest.raises(ImageError, match=r"cut off after 10 of 99 bytes"):
        fetch(web.page("/length", bytes(10), Content_Length="99"), LOCAL)
    with pytest.raises(ImageError, match="cut off, its last piece"):
        fetch(web.page("/chunk", b"9\r\nabc", Transfer_Encoding="chunked", Content_Length=""), LOCAL)


# ---- answers of another kind


def test_other_answers(web):
    with pytest.raises(ImageError, match="answers 404 Not Found, expected 200"):
        fetch(web.url("/nothing"), LOCAL)
    with pytest.raises(ImageError, match="answers 204"):
        fetch(web.page("/empty", b"", 204), LOCAL)
    with pytest.raises(ImageError, match="sends it as gzip"):
        fetch(web.page("/gzip", b"", Content_Encoding="gzip"), LOCAL)
    url = web.page("/page", b"<!DOCTYPE html>", Content_Type="text/html")
    with pytest.raises(ImageRefusedError, match=r"/page: not a readable image \(HTML; .*the server calls it text/html"):
        open_image(url, policy=LOCAL)
    with pytest.raises(ImageError, match=r"unknown or damaged format; the server calls it text/plain"):
        open_image(web.page("/text", b"hello", Content_Type="text/plain"), policy=LOCAL)
    with pytest.raises(ImageError, match=r"cannot be fetched from 127\.0\.0\.1: .*refused"):
        fetch(f"http://127.0.0.1:{closed_port()}/", LOCAL)


@pytest.mark.parametrize("answer", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n"])
def test_answers_that_are_not_http(answer):
    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(answer)

    with raw_server(talk) as port, pytest.raises(ImageError, match=r"cannot be fetched from 127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{port}/a.png", LOCAL)


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///a.png", "http://:80/", "http://a:port/", "http://a:0/", "http://a:99999/", "http://[::1"),
        *("http://127.0.0.1\\@a.test/", "http://a.test/\r\nHost: b", "http://a\tb/", "http://[fe80::1%25eth0]/"),
        *("http://user@a.test/", "http://user:secret@a.test/", f"http://{'ä' * 70}.test/", "http://a%2eb/"),
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ImageError, match=r"image .*(not a web address|control characters|user name)") as error:
        open_image(url)
    assert "\r" not in str(error.value)


# ---- time


@pytest.mark.parametrize(
    ("head", "piece"), [(b"", b""), (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"")], ids=["headers", "body"]
)
def test_silence_ends_at_read_timeout(head, piece):
    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(head)
        over.wait(5)

    policy = ImagePolicy(allow_private=True, read_timeout=0.1, total_timeout=5)
    _refused_in_time(talk, policy, "read_timeout", "took more than 0.1 s")
    policy = ImagePolicy(allow_private=True, read_timeout=5, total_timeout=0.1)
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.1 s")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["headers", "body"])
def test_a_byte_now_and_then_ends_at_total_timeout(head):
    def talk(connection, over):
        connection.recv(4096)
        connection.sendall(head)
        while not over.wait(0.05):
            connection.sendall(b"x")

    policy = ImagePolicy(allow_private=True, read_timeout=0.2, total_timeout=0.4)
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.4 s")


def _refused_in_time(talk, policy, rule, reason, scheme="http"):
    with raw_server(talk) as port:
        start = time.monotonic()
        with pytest.raises(ImageRefusedError, match=reason) as error:
            fetch(f"{scheme}://127.0.0.1:{port}/a.png", policy)
        assert time.monotonic() - start < 3
    assert error.value.rule == rule and f"image_policy: {{{rule}: ...}}" in str(error.value)


def test_redirects_share_the_total_time(web):
    def talk(connection, over):
        connection.recv(4096)
        over.wait(0.15)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    policy = ImagePolicy(allow_private=True, total_timeout=0.5, max_redirects=100)
    _refused_in_time(talk, policy, "total_timeout", "took more than 0.5 s")


def test_connections_and_handshakes_end_at_connect_timeout():
    policy = ImagePolicy(allow_private=True, connect_timeout=0.2)
    _refused_in_time(lambda connection, over: over.wait(5), policy, "connect_timeout", "0.2 s", scheme="https")
    over = threading.Event()
    try:
        with pytest.raises(ImageRefusedError, match=r"slow\.test took more than 0\.2 s") as error:
            fetch("http://slow.test/a.png", policy, resolver=lambda host, port: over.wait(5) and [])
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


# ---- data: addresses


def data_uri(data: bytes, head: str = "data:image/png;base64") -> str:
    return f"{head},{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "head", ["data:image/png;base64", "data:;base64", "DATA:image/jpeg;name=a.png;Base64", "data:text/html;base64"]
)
def test_data_addresses(head):
    assert decode_data_uri(data_uri(PNG, head)) == PNG
    assert open_image(data_uri(PNG, head), root="/nowhere").size == (20, 12)


def test_data_addresses_may_be_escaped_and_folded():
    uri = data_uri(PNG)
    folded = "\n ".join(uri[i : i + 76] for i in range(0, len(uri), 76)).replace("+", "%2B").replace("=", "%3D")
    assert decode_data_uri(folded) == PNG


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:", "expected data:image"),
        ("data:image/png;base64", "expected data:image"),
        ("data:image/png,%89PNG", "must be in base64"),
        ("data:image/png;base64x,AAAA", "must be in base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,AAA", "damaged base64: Incorrect padding"),
        ("data:image/png;base64,AA*A", "damaged base64"),
        ("data:image/png;base64,ÄÖÜß", "damaged base64"),
        ("data:image/png;base64,aGVsbG8=", "unknown or damaged format"),
        (data_uri(PNG[: len(PNG) // 2]), "data:image/png;base64,.*broken"),
    ],
)
def test_damaged_data_addresses(uri, reason):
    with pytest.raises(ImageError, match=reason) as error:
        open_image(uri)
    assert len(str(error.value)) < 300


def test_data_addresses_are_limited_too():
    policy = ImagePolicy(max_bytes=1000)
    assert len(decode_data_uri(data_uri(bytes(1000)), policy)) == 1000
    for size in (1001, 10_000):
        with pytest.raises(ImageRefusedError, match="more than the 1000 bytes") as error:
            decode_data_uri(data_uri(bytes(size)), policy)
        assert error.value.rule == "max_bytes"
