"""Bad requests, bad clients and bad luck: an error in OpenAI's shape or a closed connection; the next request works."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import random
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.golden import golden_set
from tests.support.served import ask, data_uri, events, get, held, post, running, user, wait_until_quiet
from tests.support.waiting import PATIENCE, wait_until

CHAT = "/v1/chat/completions"
PICTURE = golden_set("a56").image(0)
VALID = {"model": "base", "messages": [user("Hello")], "temperature": 0, "max_tokens": 2}
LONG = {"temperature": 0, "max_tokens": 90, "logit_bias": {"65": 100}}  # never ends by itself


@contextlib.contextmanager
def served_with(service, **limits):
    """A second application before the same engine, with other limits."""
    from mindformers_qwenvl.serve.service import Service

    changed = dataclasses.replace(service.limits, **limits)
    with running(Service(service.engine, service.prompts, service.config, service.names, changed)) as address:
        yield address


def error_of(response, status, code=None):
    """The error of a response, which has OpenAI's shape."""
    assert response.status_code == status, response.text
    [(key, error)] = response.json().items()
    assert key == "error" and set(error) == {"message", "type", "param", "code"} and error["message"]
    assert code is None or error["code"] == code, error
    return error


def works(address):
    return ask(address, **VALID).status_code == 200


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_malformed_bodies(address, count):
    """Bytes changed, cut, doubled; values of other types instead of any value."""
    rng = random.Random(16)
    plain = {**VALID, "model": "none", "messages": [user("Hello", data_uri(PICTURE))], "stop": ["a"], "seed": 5}
    strange = (None, True, -1, 1e308, "", "\ud800", [], {}, [[]], {"a": {}}, "x" * 300, 2**70, "\0", [None], 0.5)

    def changed(value):
        if rng.random() < 0.2:
            return rng.choice(strange)
        if isinstance(value, dict) and value:
            key = rng.choice(list(value))
            return {**value, key: changed(value[key])}
        if isinstance(value, list) and value:
            place = rng.randrange(len(value))
            return [*value[:place], changed(value[place]), *value[place + 1 :]]
        return rng.choice(strange)

    raw = json.dumps(plain).encode()
    statuses = set()
    with httpx.Client(base_url=address, headers={"Content-Type": "application/json"}, timeout=PATIENCE) as client:
        for number in range(count):
            body = bytearray(raw)
            if number % 2:
                body = json.dumps(changed(plain)).encode()
            elif number % 4:
                del body[rng.randrange(len(body)) :]
            else:
                for _ in range(rng.randrange(1, 6)):
                    body[rng.randrange(200)] = rng.randrange(256)
            response = client.post(rng.choice((CHAT, "/v1/completions")), content=bytes(body))
            statuses.add(response.status_code)
            error_of(response, response.status_code)
    assert statuses <= {400, 404} and 400 in statuses
    assert works(address)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_pictures_that_are_not_taken(address, web, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE.read_bytes())
    web.page("/cat.png", PICTURE.read_bytes())
    inside = web.redirect("/away", "http://169.254.169.254/latest/meta-data")
    refused = {
        "invalid_image_url": [
            *("file:///etc/passwd", "/etc/passwd", str(secret), "ftp://example.com/a.png", "cat.png", "gopher://x"),
            *(web.url("/cat.png"), inside, "http://localhost:1/", "http://[::1]/a", "http://0.0.0.0/", "http://10.1/a"),
        ],
        "invalid_image": [
            *("data:image/png;base64,!!!", "data:image/png;base64,", "data:image/png,AAAA", "data:,"),
            *(data_uri(b"not a picture"), data_uri(PICTURE.read_bytes()[:200]), data_uri(b"<svg/>", "svg+xml")),
            *(data_uri(bomb(30, 30)), data_uri(bomb(90_000, 90_000)), "http://", "http://no such host/"),
        ],
    }
    for code, sources in refused.items():
        for source in sources:
            error = error_of(ask(address, messages=[user("What?", source)]), 400)
            assert error["param"] == "messages[0].content[0].image_url.url", (source, error)
            assert error["code"] in refused, (source, error)
            assert not any(word in error["message"] for word in ("127.0.0.1 ", "private", str(tmp_path), "root:"))
            if code == "invalid_image_url":
                assert error["code"] == code, (source, error)
    assert web.seen == [], "nobody on this machine was asked"
    for text in (f"<img>{secret}</img>", "<img>file:///etc/passwd</img>", "<img>unclosed"):
        error_of(ask(address, messages=[user(text)]), 400)
        error_of(post(f"{address}/v1/completions", json={"model": "base", "prompt": text}), 400)
    assert works(address)


def test_prompts_that_are_too_long_or_out_of_order(address):
    error_of(ask(address, messages=[user("x " * 500)]), 400, "context_length_exceeded")
    error_of(ask(address, messages=[user("Many", *[data_uri(PICTURE)] * 9)]), 400, "context_length_exceeded")
    answer = {"role": "assistant", "content": "No."}
    for messages in ([answer], [user("a"), answer], [answer, user("a")], [{"role": "system", "content": "x"}]):
        assert error_of(ask(address, messages=messages), 400)["param"] == "messages"
    late = error_of(ask(address, messages=[user("a"), {"role": "system", "content": "x"}, user("b")]), 400)
    assert late["param"] == "messages[1].role"
    error_of(ask(address, model="none", messages=[user("a")]), 404, "model_not_found")
    assert error_of(ask(address, messages=[user("a")], tools=[{"type": "function"}]), 400)["param"] == "tools"


def test_addresses_methods_and_kinds(address):
    error_of(get(f"{address}/v1/nothing"), 404)
    error_of(get(f"{address}{CHAT}"), 405)
    error_of(get(f"{address}/page/index.html"), 404)
    error_of(post(f"{address}{CHAT}", content=json.dumps(VALID)), 415)
    error_of(post(f"{address}{CHAT}", data={"model": "base"}), 415)
    plain = post(f"{address}{CHAT}", json=VALID, headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in plain.headers if name.startswith("access-control")]


def test_bodies_that_are_too_large(address):
    large = b'{"model": "' + b"x" * (5 * 2**20) + b'"}'
    headers = {"Content-Type": "application/json"}
    error_of(post(f"{address}{CHAT}", content=large, headers=headers), 413)
    pieces = (large[start : start + 65536] for start in range(0, len(large), 65536))
    error_of(post(f"{address}{CHAT}", content=pieces, headers=headers), 413)
    with contextlib.suppress(httpx.HTTPError):  # it may close the connection of a client that keeps sending
        error_of(post(f"{address}{CHAT}", content=b" " * (50 * 2**20), headers=headers), 413)
    assert works(address)


def raw(address: str, data: bytes) -> bytes:
    """What a client gets that sends only `data`, until the server ends the connection, as it must."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def test_slow_and_broken_senders(service, address, monkeypatch):
    from mindformers_qwenvl.serve import server

    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with monkeypatch.context() as patch:  # short for those that never send the rest; what follows may be slow
        patch.setattr(service, "limits", dataclasses.replace(service.limits, body_seconds=1))
        slow = raw(address, f'{head}Content-Length: 500\r\nConnection: close\r\n\r\n{{"model"'.encode())
    assert slow.startswith(b"HTTP/1.1 408 ") and b'"timeout_error"' in slow
    with monkeypatch.context() as patch:
        patch.setattr(server, "HEADER_SECONDS", 0.5)
        for beginning in (b"", b"POST /v1/ch", head.encode()):
            assert raw(address, beginning) == b""
    assert raw(address, b"\x16\x03\x01 no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    wait_until_quiet(service)
    assert works(address)


def test_a_client_that_resets_the_connection(service, address):
    body = json.dumps({**VALID, **LONG, "stream": True}).encode()
    host, port = address.removeprefix("http://").split(":")
    for _ in range(5):
        connection = socket.create_connection((host, int(port)), PATIENCE)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        connection.recv(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_until_quiet(service)
    assert works(address)


def test_a_full_queue(service, address):
    with ThreadPoolExecutor(4) as pool:
        with held(service.engine):  # it stays full until it was asked
            asked = [
                pool.submit(ask, address, messages=[user("Long")], n=11, **{**LONG, "max_tokens": 20}) for _ in range(4)
            ]
            wait_until(lambda: service.engine.waiting >= 40 - 4)
            refused = ask(address, messages=[user("More")], n=16)
        error_of(refused, 429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        for response in asked:
            assert len({choice["message"]["content"] for choice in response.result().json()["choices"]}) == 1
    assert works(address)


def test_keys(service):
    with served_with(service, keys=("first-key", "zweiter-schlüssel")) as address:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-key"}):
            refused = get(f"{address}/v1/models", headers=headers)
            error_of(refused, 401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
            error_of(post(f"{address}{CHAT}", json=VALID, headers=headers), 401)
            error_of(get(f"{address}/metrics", headers=headers), 401)
        assert get(f"{address}/health").status_code == 200
        good = {"Authorization": "Bearer first-key"}
        assert get(f"{address}/v1/models", headers=good).status_code == 200
        assert post(f"{address}{CHAT}", json=VALID, headers=good).status_code == 200


def test_names_and_origins(service):
    hosts = frozenset(("127.0.0.1", "models.example"))
    with served_with(service, hosts=hosts, origins=("https://page.example",)) as address:
        error_of(get(f"{address}/v1/models", headers={"Host": "evil.example"}), 403, "unknown_host")
        assert get(f"{address}/v1/models", headers={"Host": "Models.example:8000"}).status_code == 200
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        for origin, status in (("https://page.example", 200), ("https://evil.example", 400)):
            preflight = httpx.options(f"{address}{CHAT}", headers={"Origin": origin, **asked}, timeout=PATIENCE)
            assert preflight.status_code == status
            assert (preflight.headers.get("access-control-allow-origin") == origin) == (status == 200)


def test_answers_that_take_too_long(service):
    with served_with(service, answer_seconds=0.4) as address:
        error_of(ask(address, messages=[user("Long")], n=8, **LONG), 503, "request_timeout")
        found = events(ask(address, messages=[user("Long")], n=8, stream=True, **LONG))
        assert found[-1]["error"]["code"] == "request_timeout"
    wait_until_quiet(service)


def test_a_step_that_fails_is_not_the_end(service, address, monkeypatch):
    decode, calls = service.engine.steps.decode, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("the card has gone away")
        return decode(*args)

    monkeypatch.setattr(service.engine.steps, "decode", failing)
    error = error_of(ask(address, messages=[user("Unlucky")], **LONG), 500, "failed")
    assert "card" not in error["message"], "what happened inside is for the log"
    calls.clear()
    found = events(ask(address, messages=[user("Unlucky")], stream=True, **LONG))
    assert found[-1]["error"]["code"] == "failed" and found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert works(address)
    wait_until_quiet(service)


def test_logs_hold_no_text_of_requests(service, caplog):
    with caplog.at_level(logging.DEBUG), running(service) as address:
        ask(address, messages=[user("my password is hunter2", data_uri(PICTURE))])
        ask(address, messages=[user("hunter2", "file:///hunter2.png")])
        ask(address, messages=[user("hunter2")], colour="hunter2")
        # The log line of a request comes after its answer: here the server has ended, so all lines are there. What a
        # server of an earlier test still logs does not count.
    records = [record for record in caplog.records if record.name.startswith("mindformers_qwenvl.serve")]
    assert "hunter2" not in "".join(record.getMessage() for record in records)
    lines = [record.getMessage() for record in records if record.threadName == address]
    assert len(lines) == 3
    assert lines[0].startswith("POST /v1/chat/completions 200 ")


def test_the_page_is_a_fixed_list_of_files(service, tmp_path, monkeypatch):
    from mindformers_qwenvl.serve import page_files

    (tmp_path / "index.html").write_text("<p>Hello", encoding="utf-8")
    (tmp_path / "app.js").write_text("1", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("no", encoding="utf-8")
    monkeypatch.setattr(page_files, "FOLDER", tmp_path)
    with running(service, page=True) as address:
        page = get(f"{address}/")
        assert page.text == "<p>Hello" and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        script = get(f"{address}/page/app.js")
        assert script.status_code == 200 and script.headers["content-type"].startswith("text/javascript")
        again = get(f"{address}/page/app.js", headers={"If-None-Match": script.headers["etag"]})
        assert again.status_code == 304 and not again.content
        for name in ("secret.txt", "..%2fsecret.txt", "%2e%2e/app.py", "../serve/app.py", "", "app.js/"):
            assert get(f"{address}/page/{name}").status_code in (404, 307), name


@pytest.fixture(autouse=True)
def _quiet_afterwards(service):
    yield
    wait_until(lambda: service.engine.running == service.engine.waiting == 0)
