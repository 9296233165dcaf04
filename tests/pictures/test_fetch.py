"""pictures/fetch.py against real servers on loopback, which the policy of a test allows by name. No MindSpore."""

from __future__ import annotations

import io
import socket

import pytest
from PIL import Image

from mindformers_qwenvl.pictures.fetch import fetch
from mindformers_qwenvl.pictures.images import open_image
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from tests.support.ports import free_port
from tests.support.web import PATIENT, TLS, TLS_NAME, picture, raw_server, site

LOCAL = ImagePolicy(allow_private=["127.0.0.1"], **PATIENT)
PNG = picture()


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
    policy = ImagePolicy(allow_private=["127.0.0.0/8"], **PATIENT)
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
    policy = ImagePolicy(allow_hosts=allowed, allow_private=["127.0.0.1"], **PATIENT)
    names = Names(**{host.replace(".", "__"): ["127.0.0.1"]})
    web.page("/a.png", PNG)
    if passes:
        assert fetch(web.url("/a.png", host), policy, resolver=names).data == PNG
        return
    with pytest.raises(ImageRefusedError, match="is not allowed; allowed are") as error:
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
    policy = ImagePolicy(allow_hosts=["good.test"], allow_private=["127.0.0.1"], **PATIENT)
    web.redirect("/first", web.url("/a.png", "other.test"))
    web.page("/a.png", PNG)
    names = Names(good__test=["127.0.0.1"], other__test=["127.0.0.1"])
    with pytest.raises(ImageRefusedError, match=r"other\.test is not allowed; allowed are"):
        fetch(web.url("/first", "good.test"), policy, resolver=names)
    assert names.asked == ["good.test"]


def test_the_number_of_redirects_is_limited(web):
    web.redirect("/round", "/round")
    with pytest.raises(ImageRefusedError, match="more than 3 redirects") as error:
        fetch(web.url("/round"), LOCAL)
    assert error.value.rule == "max_redirects" and len(web.seen) == 4
    with pytest.raises(ImageRefusedError, match="more than 0 redirects"):
        fetch(web.url("/round"), ImagePolicy(allow_private=True, max_redirects=0, **PATIENT))
    with pytest.raises(ImageError, match="without a Location"):
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


# ---- answers of another kind


def test_other_answers(web):
    with pytest.raises(ImageError, match="answers 404 Not Found, expected 200"):
        fetch(web.url("/nothing"), LOCAL)
    with pytest.raises(ImageError, match="answers 204"):
        fetch(web.page("/empty", b"", 204), LOCAL)
    with pytest.raises(ImageError, match=r"sends it compressed \(gzip\)"):
        fetch(web.page("/gzip", b"", Content_Encoding="gzip"), LOCAL)
    url = web.page("/page", b"<!DOCTYPE html>", Content_Type="text/html")
    with pytest.raises(ImageRefusedError, match=r"/page: .* it is HTML, .*; the server says text/html"):
        open_image(url, policy=LOCAL)
    with pytest.raises(ImageError, match=r"unknown or damaged format; the server says text/plain"):
        open_image(web.page("/text", b"hello", Content_Type="text/plain"), policy=LOCAL)
    with pytest.raises(ImageError, match=r"cannot be fetched from 127\.0\.0\.1: .*refused"):
        fetch(f"http://127.0.0.1:{free_port()}/", LOCAL)


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
