"""From messages to a prompt, and from its pictures to pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from mindformers_qwenvl.chat.vectors import digest_of
from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.pictures.fetch import fetch
from mindformers_qwenvl.pictures.images import INTERPOLATIONS, ImageTransform, resize_square
from mindformers_qwenvl.pictures.opening import open_image
from mindformers_qwenvl.pictures.policy import ImageError, ImageRefusedError
from mindformers_qwenvl.pictures.sources import is_data_uri, is_web_address
from mindformers_qwenvl.serve.asked import Asked, Part, Turn
from mindformers_qwenvl.serve.errors import ApiError, bad_request, too_long
from mindformers_qwenvl.serve.jobs import Picture
from mindformers_qwenvl.text.rows import Row
from mindformers_qwenvl.text.tags import picture_text

__all__ = ["Prompts"]

KINDS = {name: f"image/{name.lower()}" for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF")}
EVERYTHING = 2**31  # tokens of history: a server never shortens it, but refuses


class Prompts:
    """Makes prompts of requests.

    Args:
        tokenizer: a `QwenVLTokenizer`.
        transform: what is done to pictures, with the policy that says where they may come from.
        system: the system message of conversations that have none.
        longest: the most tokens that prompt and answer may have together.
    """

    def __init__(self, tokenizer: Any, transform: ImageTransform, system: str, longest: int):
        self.tokenizer, self.transform, self.system, self.longest = tokenizer, transform, system, longest
        self.files = bool(transform.policy.allow_folders)

    def of(self, asked: Asked) -> list[tuple[Row, list[Picture]]]:
        """The prompts of a request, with their pictures opened.

        Raises:
            ApiError: a message cannot be laid out, the prompt is too long, or a picture cannot be used.
        """
        if asked.chat:
            return [self._chat(asked.turns)]
        prompts = []
        for number, text in enumerate(asked.prompts):
            where = "prompt" if len(asked.prompts) == 1 else f"prompt[{number}]"
            prompts.append(self._opened(self._row(where, text, None, "", "raw"), {}, where))
        return prompts

    def _chat(self, turns: Sequence[Turn]) -> tuple[Row, list[Picture]]:
        turns = list(turns)
        system = []
        while turns and turns[0].role == "system":
            system.append(turns.pop(0).text)
        pictures: dict[str, Part] = {}
        said: list[tuple[str, str]] = []  # role and text; consecutive messages of one role are joined
        for turn in turns:
            if turn.role == "system":
                raise bad_request(f"{turn.where}.role", "a system message must come before all others")
            text = self._as_text(turn, pictures)
            if said and said[-1][0] == turn.role:
                said[-1] = (turn.role, f"{said[-1][1]}\n{text}")
            else:
                said.append((turn.role, text))
        if not said or said[0][0] != "user" or said[-1][0] != "user":
            raise bad_request(
                "messages", "expected the first message (after system messages) and the last one to be of role user"
            )
        history = [(asked[1], answer[1]) for asked, answer in zip(said[:-1:2], said[1::2], strict=True)]
        message = "\n".join(system) if system else self.system
        row = self._row("messages", said[-1][1], history, message, "chatml")
        return self._opened(row, pictures, "messages")

    def _as_text(self, turn: Turn, pictures: dict[str, Part]) -> str:
        """The text of a message, with tags for its pictures, which are numbered over the whole conversation (as the
        original's web_demo_mm.py does)."""
        text = ""
        for part in turn.parts:
            if text and not text[-1].isspace():
                text += "\n"
            if part.picture is None:
                text += part.text
            else:
                name = f"picture-{len(pictures) + 1}"
                pictures[name] = part
                text += picture_text(len(pictures), name, self.tokenizer.tags)
        return text

    def _row(self, where: str, query: str, history: Any, system: str, chat_format: str) -> Row:
        try:
            row = make_prompt(
                self.tokenizer, query, history, system, max_window_size=EVERYTHING, chat_format=chat_format
            )
        except ValueError as error:
            raise bad_request(where, str(error)[:500]) from None
        if len(row) >= self.longest:
            raise too_long(where, len(row), self.longest)
        return row

    def _opened(self, row: Row, parts: dict[str, Part], where: str) -> tuple[Row, list[Picture]]:
        opened: dict[str, Picture] = {}
        for name in row.images:
            if name not in opened:
                part = parts.get(name)
                source, field = (name, where) if part is None else (part.picture, part.where)
                opened[name] = self._open(source, field)
        return replace(row, in_memory={}), [opened[name] for name in row.images]

    def _open(self, source: str, where: str) -> Picture:
        if not (self.files or is_web_address(source) or is_data_uri(source)):
            raise bad_request(
                where,
                "expected the address of a picture, http://..., https://... or data:image/...;base64,...; files of "
                "this server are not read",
                "invalid_image_url",
            )
        transform = self.transform
        try:
            image = open_image(source, exif_rotation=transform.exif_rotation, policy=transform.policy)
            pixels = np.asarray(resize_square(image, transform.size, INTERPOLATIONS[transform.interpolation]))
        except (ImageError, OSError) as error:
            raise _fault(error, where) from None
        return Picture(digest_of(pixels), pixels, image.width, image.height)

    def download(self, address: Any, where: str) -> tuple[bytes, str]:
        """The picture file at an http(s) address, once it is known to decode under the policy, and its media type.

        Raises:
            ApiError: it is not such an address, or the picture cannot be used.
        """
        if not is_web_address(address):
            raise bad_request(where, "expected an address, http://... or https://...", "invalid_image_url")
        policy = self.transform.policy
        try:
            data = fetch(address, policy).data
            image = open_image(data, policy=policy)
            with Image.open(io.BytesIO(data), formats=policy.formats) as opened:
                kind = KINDS.get(opened.format or "")
            if kind is None:  # a format that the operator allows, but browsers may not know
                image.save(file := io.BytesIO(), "PNG")
                return file.getvalue(), "image/png"
        except (ImageError, OSError) as error:
            raise _fault(error, where) from None
        return data, kind


def _fault(error: Exception, where: str) -> ApiError:
    """The error that a client gets for a picture that cannot be used."""
    if not isinstance(error, ImageRefusedError):
        return bad_request(where, str(error)[:500], "invalid_image")
    # Clients must not learn what is at an address inside this network, or where a link on this machine leads.
    hidden = error.rule in ("allow_private", "allow_hosts", "allow_folders", "allow_outside", "")
    message = "this server does not accept pictures from there" if hidden else str(error)
    return bad_request(where, message, "invalid_image_url")
