"""`POST /v1/pictures`: the page's way to a picture of another server."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from tests.support.golden import golden_set
from tests.support.served import post, running
from tests.support.waiting import PATIENCE
from tests.support.web import PATIENT

PICTURE = golden_set("a56").image(0)


@pytest.fixture
def picture(service):
    with running(service, page=True) as address, httpx.Client(base_url=address, timeout=PATIENCE) as client:
        yield lambda body, **headers: client.post("/v1/pictures", json=body, headers=headers)


@pytest.fixture
def allowed(service, monkeypatch):
    """Pictures may come from this machine."""
    transform = service.prompts.transform
    policy = replace(transform.policy, allow_private=("127.0.0.1",), **PATIENT)
    monkeypatch.setattr(service.prompts, "transform", replace(transform, policy=policy))


def test_the_bytes_as_they_are(picture, web, allowed):
    found = picture({"url": web.page("/0.png", PICTURE.read_bytes(), Content_Type="text/html")})
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert found.content == PICTURE.read_bytes()
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_what_is_no_picture_stays_where_it_is(picture, web, allowed):
    """The server cannot be used to read other things in its network."""
    for path, body in (("/secret", b"password"), ("/half.png", PICTURE.read_bytes()[:300])):
        found = picture({"url": web.page(path, body)})
        assert found.status_code == 400 and found.json()["error"]["param"] == "url"
        assert b"password" not in found.content


@pytest.mark.parametrize("url", [None, 7, "", "file:///etc/passwd", "/etc/passwd", "data:image/png;base64,AA=="])
def test_no_web_address(picture, url):
    found = picture({"url": url})
    assert found.status_code == 400 and "expected an address" in found.json()["error"]["message"]


def test_private_addresses_are_refused(picture, web):
    found = picture({"url": web.page("/0.png", PICTURE.read_bytes())})
    assert found.status_code == 400 and web.seen == []
    assert found.json()["error"]["message"].endswith("this server does not accept pictures from there")


def test_a_page_of_another_server_cannot_use_it(picture):
    assert picture({"url": "http://example.com/a.png"}, **{"Content-Type": "text/plain"}).status_code == 415


def test_without_the_page_there_is_none(address):
    assert post(f"{address}/v1/pictures", json={"url": "http://example.com/a.png"}).status_code == 404


def test_it_needs_the_key(service, picture, monkeypatch):
    monkeypatch.setattr(service, "limits", replace(service.limits, keys=("secret",)))
    assert picture({"url": None}).status_code == 401
    assert picture({"url": None}, Authorization="Bearer secret").status_code == 400
