"""A server in a thread of this process, and what tests ask it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


@contextlib.contextmanager
def running(service: Any, page: bool = False) -> Iterator[str]:
    """Serve on loopback; gives the address, such as http://127.0.0.1:40123. The engine must be started elsewhere."""
    import uvicorn

    from mindformers_qwenvl.serve.app import make_app
    from mindformers_qwenvl.serve.server import bind, configured

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(configured(make_app(service, page), 5))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def data_uri(picture: Path | bytes, kind: str = "png") -> str:
    raw = picture if isinstance(picture, bytes) else picture.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def user(text: str, *pictures: str) -> dict[str, Any]:
    """A message of the user, pictures (addresses) before the text."""
    if not pictures:
        return {"role": "user", "content": text}
    parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def ask(address: str, **body: Any) -> httpx.Response:
    """POST /v1/chat/completions; greedy and short unless the body says otherwise."""
    body = {"model": "base", "temperature": 0, "max_tokens": 8, **body}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120)


def events(response: httpx.Response) -> list[Any]:
    """The server-sent events of a whole response; the last is "[DONE]" if the stream came to its end."""
    found = []
    for block in response.text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def wait_until(condition: Any, seconds: float = 20) -> None:
    """Wait for `condition()` to be true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
