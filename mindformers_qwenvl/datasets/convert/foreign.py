"""What records of other projects hold besides conversations with pictures: converted, or a reason to refuse them.

Placeholders of other projects: `<image1>` (numbered), `<|image_1|>` (Phi-3-vision), `<Img><ImageHere></Img>`
(MiniGPT-4, InternLM-XComposer), `<|vision_start|><|image_pad|><|vision_end|>` (Qwen2-VL),
`<image_placeholder>` (DeepSeek-VL), `<IMG_CONTEXT>` (InternVL), `<start_of_image>` (Gemma). Plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from mindformers_qwenvl.text.tags import picture_text

__all__ = ["OBJECT_PLACES", "check_kind", "check_places", "drop_unused_keys", "numbered_places", "plain_places"]

MODALITY_KEYS = ("video", "videos", "audio", "audios", "speech", "sound", "point_cloud", "point_clouds")
PREFERENCE_KEYS = (
    *("chosen", "rejected", "rejected_response", "rejected_responses", "rejected_messages", "rejected_images"),
    "kto_tag",
)
# All begin with "<", so `re` searches for them 20 times as fast.
SPELLINGS = re.compile(
    r"<img></img>|<Img><ImageHere></Img>|<Img><ImageHere>|<ImageHere>"
    r"|<(?:\|vision_start\|><)?\|image_pad\|>(?:<\|vision_end\|>)?|<\|image\|>|<image_placeholder>"
    r"|<img><IMG_CONTEXT></img>|<IMG_CONTEXT>|<start_of_image>|<image_soft_token>"
)
NUMBERED = re.compile(r"<image[ _-]?(\d{1,4})>|<\|image_(\d{1,4})\|>", re.IGNORECASE)
OTHER_MODALITY = re.compile(r"<(?:video|audio|speech|sound)>")
OBJECT_PLACES = re.compile(r"<ref-object>|<bbox>")
KINDS = {
    "other modality": OTHER_MODALITY,
    "objects": OBJECT_PLACES,
    "places of pictures": re.compile(f"{NUMBERED.pattern}|{SPELLINGS.pattern}"),
}


def check_kind(record: Any) -> None:
    """Refuse records for something other than fine-tuning on pictures and text.

    Raises:
        UnusableError: it has video, sound and the like, or answers to be preferred or rejected.
    """
    if not isinstance(record, dict):
        return
    for key in PREFERENCE_KEYS:
        if key in record:
            raise UnusableError(
                "preference record", f"it has the key {key!r}: data for preference training, not for fine-tuning"
            )
    for key in MODALITY_KEYS:
        if record.get(key):
            raise UnusableError("other modality", f"it has the key {key!r}; Qwen-VL reads only pictures and text")


def drop_unused_keys(record: dict[str, Any], report: ConversionReport) -> None:
    """Leave out, and count, keys that change the meaning of a record but that training does not read."""
    if record.pop("system", None):
        report.notes["`system` keys left out (the YAML's system_message is used instead)"] += 1
    if record.pop("tools", None):
        report.notes["`tools` keys left out"] += 1
    if isinstance(record.get("label"), bool):
        report.notes["records with a true or false `label`, kept: is this preference data?"] += 1


def check_places(turns: Sequence[dict[str, Any]], user: str, has_pictures: bool, report: ConversionReport) -> None:
    """Refuse placeholders that nothing has replaced. Ordinary text, above all HTML, may hold such words. So one counts

    - in a record with pictures, except for video and sound in an answer;
    - else, in a question, at the start of a line or the end of the text, as for `<image>`.

    Others are kept as words, and counted in the report.

    Raises:
        UnusableError: there is one; the message names it.
    """
    kept = False
    for number, turn in enumerate(turns):
        text, is_question = turn["value"], turn["from"] == user
        if "<" not in text:
            continue
        for kind, pattern in KINDS.items():
            for match in pattern.finditer(text):
                at_edge = is_question and (text[: match.start()][-1:] in ("", "\n") or not text[match.end() :].strip())
                if at_edge or (has_pictures and (is_question or kind != "other modality")):
                    raise UnusableError(kind, f"turn {number} has {match.group()}, but there is nothing to put there")
                kept = True
    if kept:
        report.notes["samples with <video>, <bbox>, <image1> or the like within a text, kept as words"] += 1


def plain_places(turns: Sequence[dict[str, Any]], user: str) -> None:
    """Write `<image>` for its spellings in other projects, in the questions of a record with pictures."""
    for turn in turns:
        if turn["from"] == user and "<" in turn["value"]:
            turn["value"] = SPELLINGS.sub("<image>", turn["value"])


def numbered_places(turns: Sequence[dict[str, Any]], paths: Sequence[str]) -> bool:
    """Put pictures at numbered placeholders; further mentions of a number become `Picture N`.

    Numbers begin with 1, or with 0 if there is a 0.

    Returns:
        False if there are none; nothing is changed then.

    Raises:
        UnusableError: the numbers are not those of the pictures, or there are `<image>` as well.
    """
    if not any("<" in turn["value"] and NUMBERED.search(turn["value"]) for turn in turns):
        return False
    if any("<image>" in turn["value"] for turn in turns):
        raise UnusableError("places of pictures", "it has both numbered placeholders and <image>")
    numbers = {_number(match) for turn in turns for match in NUMBERED.finditer(turn["value"])}
    first = min(1, *numbers)
    if numbers != set(range(first, first + len(paths))):
        shown = ", ".join(map(str, sorted(numbers)[:8]))
        raise UnusableError("places of pictures", f"{len(paths)} pictures, but placeholders with the numbers {shown}")
    seen: set[int] = set()

    def picture(match: re.Match) -> str:
        number = _number(match) - first
        if number in seen:
            return f"Picture {number + 1}"
        seen.add(number)
        return picture_text(number + 1, paths[number])

    pattern = re.compile(rf"(?:{NUMBERED.pattern})\n?", re.IGNORECASE)  # a line break belongs to the tag
    for turn in turns:
        turn["value"] = pattern.sub(lambda match: _with_break(match, picture), turn["value"])
    return True


def _with_break(match: re.Match, picture: Any) -> str:
    text = picture(match)
    return text + "\n" if match.group().endswith("\n") and not text.endswith("\n") else text


def _number(match: re.Match) -> int:
    return int(next(number for number in match.groups() if number is not None))
