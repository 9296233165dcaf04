"""A server in a thread of this process, and what tests ask it."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.waiting import PATIENCE, wait_until

get, post = functools.partial(httpx.get, timeout=PATIENCE), functools.partial(httpx.post, timeout=PATIENCE)


@contextlib.contextmanager
def running(service: Any, page: bool = False) -> Iterator[str]:
    """Serve on loopback; gives the address, such as http://127.0.0.1:40123, which is also the name of its thread. The
    engine must be started elsewhere."""
    import uvicorn

    from mindformers_qwenvl.serve.app import make_app
    from mindformers_qwenvl.serve.server import bind, configured

    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(configured(make_app(service, page), 5))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), name=address, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
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
    return post(f"{address}/v1/chat/completions", json=body)


def events(response: httpx.Response) -> list[Any]:
    """The server-sent events of a whole response; the last is "[DONE]" if the stream came to its end."""
    found = []
    for block in response.text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def wait_until_quiet(service: Any) -> None:
    """Wait until nothing is asked of a service or runs in it, and all blocks of the cache are free again. A client has
    its answer before the server has done with it."""
    engine = service.engine
    wait_until(lambda: engine.running == engine.waiting == service.in_flight == service.reading == 0)
    wait_until(lambda: len(engine._free) == engine.network.config.num_blocks)


@contextlib.contextmanager
def held(engine: Any, after: int = 1) -> Iterator[None]:
    """No answer gets more than `after` tokens before the block ends: what is done in it happens while they run."""
    go, decode = threading.Event(), engine.steps.decode

    def waiting(tokens: Any, lengths: Any, asked: Any, blocks: Any) -> Any:
        if max(length - of_prompt for length, of_prompt in zip(lengths, asked, strict=True)) >= after:
            assert go.wait(PATIENCE)
        return decode(tokens, lengths, asked, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.steps, "decode", waiting)
        try:
            yield
        finally:
            go.set()
