"""A conversation whose answers come from a server, as `chat.answer.Chat` has them from a network of this process."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mindformers_qwenvl.chat.remote import Remote
from mindformers_qwenvl.generation.prompt import Query
from mindformers_qwenvl.pictures.opening import StartedImage, start_image
from mindformers_qwenvl.pictures.policy import ImagePolicy

__all__ = ["RemoteChat", "content_of", "picture_address"]


def picture_address(
    source: str, *, root: str | os.PathLike[str] | None = None, policy: ImagePolicy | None = None
) -> str:
    """The address that a server is sent for a picture: web and `data:` addresses as they are, a file as `data:`.

    Raises:
        FileNotFoundError, ImageError: as `open_image`, for files.
    """
    started = start_image(source, root=root, policy=policy)
    if not isinstance(started, StartedImage):
        return source
    kind = Image.MIME.get(started.image.format or "", "image/png")
    return f"data:{kind};base64,{base64.b64encode(Path(started.name).read_bytes()).decode()}"


def content_of(query: Query, address: Callable[[str], str]) -> str | list[dict[str, Any]]:
    """A query as the content of a message. address: see `picture_address`."""
    if isinstance(query, str):
        return query
    parts: list[dict[str, Any]] = []
    for element in query:
        if "image" in element:
            parts.append({"type": "image_url", "image_url": {"url": address(element["image"])}})
        else:
            parts.append({"type": "text", "text": element["text"]})
    return parts


class RemoteChat:
    """Talks to a model of a server. Holds no history.

    Args:
        remote: the server.
        model: the name of one of its models.
        settings: fields of every request, such as temperature.
    """

    def __init__(self, remote: Remote, model: str, settings: Mapping[str, Any]):
        self.remote, self.model, self.settings = remote, model, dict(settings)
        self.pictures = _Addresses()

    def prompt(self, query: Query, history: Sequence[tuple[Query, str]] = (), system: str | None = None) -> list[Any]:
        """The messages for a query and what was said before it. system: None for the server's own."""
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        for asked, answered in history:
            messages.append({"role": "user", "content": content_of(asked, self.pictures.pixels)})
            messages.append({"role": "assistant", "content": answered})
        return [*messages, {"role": "user", "content": content_of(query, self.pictures.pixels)}]

    def answer(
        self, prompt: list[Any], on_text: Callable[[str], None] | None = None, cancelled: Any = None, **_: Any
    ) -> str:
        """The answer to messages. While it comes, `on_text` is called with the text so far; `cancelled` ends it.

        Raises:
            RemoteError: the server does not answer.
        """
        text = ""
        for piece in self.remote.stream({"model": self.model, "messages": prompt, **self.settings}):
            if piece:
                text += piece
                if on_text is not None:
                    on_text(text)
            if cancelled is not None and cancelled.is_set():
                break
        return text


class _Addresses:
    """Addresses of pictures. A file is read only once, although a conversation sends its pictures with every turn."""

    def __init__(self) -> None:
        self._read: dict[str, str] = {}

    def pixels(self, source: str) -> str:
        """The address of a picture; the name is that of `Pictures.pixels`."""
        if source not in self._read:
            self._read[source] = picture_address(source)
        return self._read[source]
