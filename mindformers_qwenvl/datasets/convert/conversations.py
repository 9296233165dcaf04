"""Records of LLaVA, LLaVA-1.5, ShareGPT and ms-swift, converted to Qwen-VL's. Plain Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mindformers_qwenvl.checks import is_number
from mindformers_qwenvl.datasets.convert.foreign import (
    check_places,
    drop_unused_keys,
    numbered_places,
    plain_places,
)
from mindformers_qwenvl.datasets.convert.picture_finder import PictureFinder
from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from mindformers_qwenvl.text.tags import picture_text

__all__ = ["ConversationReader"]

# A placeholder is replaced with one line break: the one after it, or else the one before it.
PLACE = re.compile(r"<image>\n|\n<image>(?!\n)|<image>")
# In a record without pictures: the placeholder of a picture that it does not name. Elsewhere in a text, just a word.
LOST_PLACE = re.compile(r"^<image>|<image>\s*\Z", re.MULTILINE)
TAG = re.compile(r"<img>(.*?)</img>", re.DOTALL)
USER_NAMES = frozenset({"human", "user"})
ASSISTANT_NAMES = frozenset({"gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard"})
PICTURE_KEYS = ("image", "images")


class ConversationReader:
    """Converts one record to one sample.

    A record holds `conversations` with `from` and `value`, or `messages` with `role` and `content` (texts, or lists of
    parts), and `image` or `images`: a path or a list of paths. Other keys are kept.

    Each `<image>` becomes `Picture N: <img>path</img>` and a line break. As in the old script, a single picture is used
    for every `<image>`. In a record without pictures, an `<image>` at the start of a line or the end of a question is
    an error; any other is just a word. Pictures without any `<image>` are put before the first question, unless the
    texts have them as `<img>path</img>` already. For placeholders of other projects see foreign.py, for `objects` of
    ms-swift objects.py.

    Args:
        pictures: finds the pictures.
        user_role_name, assistant_role_name: the roles to write.
        report: counts what was changed.
    """

    def __init__(
        self, pictures: PictureFinder, user_role_name: str, assistant_role_name: str, report: ConversionReport
    ) -> None:
        self.pictures = pictures
        self.report = report
        self.roles = dict.fromkeys(USER_NAMES, user_role_name) | dict.fromkeys(ASSISTANT_NAMES, assistant_role_name)
        self.roles |= {user_role_name: user_role_name, assistant_role_name: assistant_role_name}
        self.user = user_role_name

    @staticmethod
    def accepts(record: Any) -> bool:
        """Whether the record is a conversation, well-formed or not."""
        return isinstance(record, dict) and ("conversations" in record or "messages" in record)

    def read(self, record: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """(sample, number of its pictures). `record` is changed and must not be used afterwards.

        Raises:
            UnusableError: the message says which turn or which picture is at fault.
        """
        turns = record.get("conversations", record.get("messages"))
        if not isinstance(turns, list) or not turns:
            raise UnusableError("malformed record", "expected a list of turns in `conversations` or `messages`")
        names = [name for key in PICTURE_KEYS for name in _names(record.pop(key, None))]
        turns = self._turns(turns, names)
        drop_unused_keys(record, self.report)
        paths = [self.pictures.find(name) for name in names]
        if record.get("objects"):
            from mindformers_qwenvl.datasets.convert.objects import fill_objects

            fill_objects(record, turns, lambda number: self._size(record, paths, number), self.report)
        if paths:
            plain_places(turns, self.user)
        own = self._own_pictures(turns)
        count = len(own)
        if paths and not self._are_there_already(turns, paths, own):
            count += self._place(turns, paths)
        elif not paths:
            self._check_lost_places(turns)
        check_places(turns, self.user, bool(count), self.report)
        if "messages" in record:
            record = {("conversations" if key == "messages" else key): value for key, value in record.items()}
        record["conversations"] = turns
        return record, count

    def _turns(self, turns: Sequence[Any], names: list[str]) -> list[dict[str, Any]]:
        output = []
        for number, turn in enumerate(turns):
            if not isinstance(turn, dict):
                raise UnusableError("malformed record", f"turn {number} is not an object: {str(turn)[:80]!r}")
            if "value" not in turn and "content" in turn:
                turn = {"from": turn.get("role", turn.get("from")), "value": turn["content"]}
            text, role = turn.get("value"), turn.get("from")
            if isinstance(text, list):
                text = turn["value"] = _join_parts(text, names, number)
            if not isinstance(text, str) or not isinstance(role, str):
                raise UnusableError("malformed record", f"turn {number} has no role or no text")
            if role == "system" and role not in self.roles:
                self.report.notes["system turns left out (the YAML's system_message is used instead)"] += 1
                continue
            if role not in self.roles:
                raise UnusableError("unknown role", f"turn {number}: {role!r} is not one of {', '.join(self.roles)}")
            turn["from"] = self.roles[role]
            output.append(turn)
        if not output:
            raise UnusableError("malformed record", "there are only system turns")
        return output

    def _place(self, turns: list[dict[str, Any]], paths: list[str]) -> int:
        """Replace each `<image>` with its picture; returns the number of pictures in the texts."""
        for path in paths:
            if "<img>" in path or "</img>" in path:
                raise UnusableError("malformed record", f"the name of the picture {path!r} contains an image tag")
        if numbered_places(turns, paths):
            return len(paths)
        places = sum(turn["value"].count("<image>") for turn in turns)
        if not places:
            first = next((turn for turn in turns if turn["from"] == self.user), None)
            if first is None:
                raise UnusableError("malformed record", "it has pictures, but neither <image> nor a question")
            first["value"] = "".join(map(picture_text, range(1, len(paths) + 1), paths)) + first["value"]
            self.report.notes["samples without <image>: pictures put before the first question"] += 1
            return len(paths)
        if len(paths) > 1 and places != len(paths):
            raise UnusableError("places of pictures", f"{len(paths)} pictures for {places} <image>")
        tags = [picture_text(number, path) for number, path in enumerate(paths, 1)]
        waiting = iter(tags if len(tags) > 1 else tags * places)
        for turn in turns:
            if "<image>" in turn["value"]:
                turn["value"] = PLACE.sub(lambda match: next(waiting), turn["value"])
        return places

    def _check_lost_places(self, turns: list[dict[str, Any]]) -> None:
        for number, turn in enumerate(turns):
            if turn["from"] == self.user and LOST_PLACE.search(turn["value"]):
                raise UnusableError("places of pictures", f"turn {number} has an <image>, but the record no picture")

    def _own_pictures(self, turns: list[dict[str, Any]]) -> list[str]:
        """The pictures that the texts have as `<img>path</img>`, each checked, and its path written as it was found."""
        found: list[str] = []

        def checked(match: re.Match) -> str:
            found.append(self.pictures.find(match[1]))
            return f"<img>{found[-1]}</img>"

        for number, turn in enumerate(turns):
            if "<img>" not in turn["value"]:
                continue
            if turn["value"].count("<img>") != len(TAG.findall(turn["value"])):
                raise UnusableError("image tags", f"turn {number}: an <img> is not closed, or is inside another one")
            turn["value"] = TAG.sub(checked, turn["value"])
        return found

    def _are_there_already(self, turns: list[dict[str, Any]], paths: list[str], own: list[str]) -> bool:
        """Whether the pictures named by the record are those that its texts have as tags.

        Raises:
            UnusableError: they are others, and no placeholder says where they belong.
        """
        if not own or any("<image>" in turn["value"] for turn in turns):
            return False
        in_texts = {self.pictures.same(path) for path in own}
        others = [path for path in paths if self.pictures.same(path) not in in_texts]
        if others:
            raise UnusableError(
                "places of pictures", f"it names the picture {others[0]}, but its texts have <img>{own[0]}</img>"
            )
        return True

    def _size(self, record: dict[str, Any], paths: list[str], number: int) -> tuple[float, float]:
        """(width, height) in pixels of a picture of the record."""
        if number >= len(paths):
            raise UnusableError("objects", f"a box refers to picture {number}, counted from 0; there are {len(paths)}")
        size = record.get("width"), record.get("height")
        if len(paths) == 1 and all(is_number(length, above=0) for length in size):
            return size
        return self.pictures.size(paths[number])


def _names(value: Any) -> list[str]:
    """The names of pictures in `image` or `images`."""
    if value is None or value == "":
        return []
    names = [_name(item) for item in (value if isinstance(value, list) else [value])]
    if not all(isinstance(name, str) for name in names):
        raise UnusableError("malformed record", f"expected a path of a picture, or a list of them: {str(value)[:80]!r}")
    return names


def _name(value: Any) -> Any:
    if isinstance(value, dict):
        return next((value[key] for key in ("path", "url", "image") if isinstance(value.get(key), str)), None)
    return value


def _join_parts(parts: list[Any], names: list[str], number: int) -> str:
    """The text of a content in parts, with `<image>` for each picture. Names of pictures are added to `names`."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            texts.append("<image>\n")
            name = _name(part.get(kind, part.get("path", part.get("url"))))
            if name is not None:
                names += _names(name)
        else:
            fault = "malformed record" if kind is None or kind == "text" else "other modality"
            raise UnusableError(fault, f"turn {number}: a part is neither text nor a picture: {kind!r}")
    return "".join(texts)
