"""Converts a whole file to Qwen-VL's format. The memory it takes does not grow with the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mindformers_qwenvl.datasets.convert.conversations import ConversationReader
from mindformers_qwenvl.datasets.convert.foreign import check_kind
from mindformers_qwenvl.datasets.convert.picture_finder import PictureFinder
from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from mindformers_qwenvl.datasets.json_stream import BadLine, JsonStream, StreamError
from mindformers_qwenvl.files import Inputs, check_output, replacing

__all__ = ["FORMATS", "convert_file", "dropped_file"]

FORMATS = ("auto", "llava", "sharegpt", "coco", "refcoco")


def convert_file(
    data_path: str | os.PathLike[str],
    image_location: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    user_role_name: str = "user",
    assistant_role_name: str = "assistant",
    format: str = "auto",
    box_format: str = "xywh",
    prompt: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> ConversionReport:
    """Convert `data_path` and write `output_path`, JSON Lines if it ends with .jsonl, else a JSON list.

    The list is, byte for byte, what the old script wrote: `json.dump` of all samples. Records that cannot be used are
    left out; if there are any, `dropped_file(output_path)` lists them. Both files appear only when they are complete.

    Args:
        data_path: JSON list, JSON Lines or a COCO object.
        image_location: folder of the pictures; paths are written relative to it.
        format: one of FORMATS; "auto" looks at each record.
        user_role_name, assistant_role_name, box_format, prompt: see `ConversationReader` and `BoxReader`.
        progress: called with the number of bytes read so far.

    Raises:
        OSError: a file or folder cannot be read or written.
        ValueError: the file is not JSON, has no known format or would give no sample, or changed while it was read; or
            an argument is not allowed.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if user_role_name == assistant_role_name:
        raise ValueError(f"user_role_name and assistant_role_name must differ, both are {user_role_name!r}")
    data_path, output_path = Path(data_path), Path(output_path)
    if data_path.is_dir() or not data_path.exists():
        raise FileNotFoundError(f"{data_path}: {'a folder, not a file' if data_path.is_dir() else 'no such file'}")
    if not data_path.is_file():
        raise ValueError(f"{data_path} is not a regular file; give one, because it is read more than once")
    if output_path.exists() and not output_path.is_file():
        raise ValueError(
            f"{output_path} is {'a folder' if output_path.is_dir() else 'not a regular file'}; give the name of a file"
        )
    output_path.parent.mkdir(parents=True, exist_ok=True)
    for path in (output_path, dropped_file(output_path)):
        check_output(path, data_path)
    inputs = Inputs(data_path)
    report, pictures = ConversionReport(), PictureFinder(image_location)
    conversations = ConversationReader(pictures, user_role_name, assistant_role_name, report)

    def boxes() -> Any:
        from mindformers_qwenvl.datasets.convert.boxes import BoxReader  # needs Pillow, conversations do not

        return BoxReader(pictures, user_role_name, assistant_role_name, report, box_format, prompt)

    if box_format != "xywh" or prompt is not None:
        boxes()  # raises if they are wrong, even if they are not needed
    with JsonStream(data_path, progress=progress) as stream:
        samples = _samples(stream, format, conversations, boxes)
        _write(samples, output_path, report, inputs)
    return report


def dropped_file(output_path: str | os.PathLike[str]) -> Path:
    """The list of the records that were left out: JSON Lines with `sample`, `id`, `reason` and `detail`."""
    return Path(f"{os.fspath(output_path)}.dropped.jsonl")


Outcome = tuple[Any, "tuple[dict[str, Any], int] | UnusableError"]  # id or None, (sample, number of pictures)


def _samples(
    stream: JsonStream, format: str, conversations: ConversationReader, boxes: Callable[[], Any]
) -> Iterator[Outcome]:
    kind = stream.kind()
    if kind == "empty":
        raise StreamError(f"{stream.path}: empty")
    if kind == "other":
        raise StreamError(f"{stream.path}: starts with {stream.first_character()!r}; expected JSON or JSONL")
    if kind == "lines" and format in ("auto", "coco"):
        first = next(stream.lines(), None)
        if isinstance(first, dict) and ("annotations" in first or "anns" in first):
            kind = "object"  # COCO on a single line
    if kind == "object":
        if format not in ("auto", "coco", "refcoco"):
            raise StreamError(f"{stream.path}: one object over several lines, but {format} is a list or JSON Lines")
        from mindformers_qwenvl.datasets.convert.coco import coco_samples

        for number, sample in coco_samples(stream, boxes()):
            yield number, sample if isinstance(sample, UnusableError) else (sample, 1)
        return
    if format == "coco":
        raise StreamError(f"{stream.path}: coco must be an object of lists; for a list of boxes use --format refcoco")
    read = _record_reader(format, conversations, boxes)
    for record in stream.items() if kind == "list" else stream.lines():
        number = record.get("id") if isinstance(record, dict) else None
        try:
            yield number, read(record)
        except UnusableError as error:
            yield number, error


def _record_reader(format: str, conversations: ConversationReader, boxes: Callable[[], Any]) -> Callable:
    made: list[Any] = []

    def read(record: Any) -> tuple[dict[str, Any], int]:
        check_kind(record)
        if format != "refcoco" and conversations.accepts(record):
            return conversations.read(record)
        if format in ("auto", "refcoco") and isinstance(record, dict) and ("bbox" in record or "box" in record):
            if not made:
                made.append(boxes())
            return made[0].read(record)
        if isinstance(record, BadLine):
            raise UnusableError("not JSON", record.reason)
        found = f"the keys {', '.join(map(str, record))}" if isinstance(record, dict) else f"{str(record)[:80]!r}"
        expected = {"refcoco": "`bbox`", "auto": "`conversations`, `messages` or `bbox`"}
        raise UnusableError(
            "malformed record",
            f"expected an object with {expected.get(format, '`conversations` or `messages`')}, found {found}",
        )

    return read


def _write(samples: Iterator[Outcome], output_path: Path, report: ConversionReport, inputs: Inputs) -> None:
    encode = json.JSONEncoder().encode  # json.dumps without its checks of arguments each time
    is_lines = output_path.suffix.lower() == ".jsonl"
    start, between, end = (b"", b"\n", b"\n") if is_lines else (b"[", b", ", b"]")
    with ExitStack() as files:
        file = files.enter_context(replacing(output_path))
        dropped = files.enter_context(replacing(dropped_file(output_path)))
        file.write(start)
        for position, (number, outcome) in enumerate(samples):
            report.read += 1
            if isinstance(outcome, UnusableError):
                name = f"sample {position}" if number is None else f"id {number!r}"
                report.drop(name, outcome)
                line = {"sample": position, "id": number, "reason": outcome.kind, "detail": str(outcome)}
                dropped.write(encode(line).encode() + b"\n")
                continue
            sample, pictures = outcome
            if report.written:
                file.write(between)
            file.write(encode(sample).encode())
            report.sample(pictures)
        if not report.written:
            raise ValueError(f"{output_path} is not written, because it would have no samples\n{report}")
        file.write(end)
        inputs.check()
    if not report.dropped:
        dropped_file(output_path).unlink(missing_ok=True)
