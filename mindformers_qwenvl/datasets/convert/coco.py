"""COCO annotation files: one object of lists that have to be joined. A file may be larger than the memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from typing import Any

from mindformers_qwenvl.checks import is_number
from mindformers_qwenvl.datasets.convert.boxes import BoxReader, Labelled, expressions
from mindformers_qwenvl.datasets.convert.tally import UnusableError
from mindformers_qwenvl.datasets.json_stream import JsonStream, StreamError

__all__ = ["coco_samples"]

# Row numbers keep the order of the file. A `ref` (REFER's form) says what an annotation is called, and that it counts.
TABLES = """
CREATE TABLE picture (number INTEGER PRIMARY KEY, id TEXT, file TEXT, width REAL, height REAL, labels TEXT);
CREATE TABLE box (number INTEGER PRIMARY KEY, id TEXT, picture TEXT, numbers TEXT, kind TEXT, labels TEXT);
CREATE TABLE kind (id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE ref (annotation TEXT, labels TEXT);
"""
INDEXES = """
CREATE INDEX picture_of ON picture (id); CREATE INDEX box_of ON box (picture); CREATE INDEX ref_of ON ref (annotation);
CREATE INDEX annotation_of ON box (id);
"""
# Annotations and refs that refer to nothing.
LOST_BOXES = """
SELECT id, picture FROM box
WHERE NOT EXISTS (SELECT 1 FROM picture WHERE picture.id = box.picture)
AND (? = 0 OR EXISTS (SELECT 1 FROM ref WHERE ref.annotation = box.id))
ORDER BY number
"""
LOST_REFS = "SELECT annotation FROM ref WHERE NOT EXISTS (SELECT 1 FROM box WHERE box.id = ref.annotation)"
NAMELESS = "boxes left out (no text, and a category without a name)"
JOINED = """
SELECT picture.number, picture.id, picture.file, picture.width, picture.height, picture.labels,
       box.numbers, box.labels, ref.labels, kind.name
FROM picture JOIN box ON box.picture = picture.id
LEFT JOIN kind ON kind.id = box.kind
LEFT JOIN ref ON ref.annotation = box.id
WHERE ? = 0 OR ref.annotation IS NOT NULL
ORDER BY picture.number, box.number, ref.rowid
"""
SECTIONS = ("images", "annotations", "anns", "categories", "refs")


def coco_samples(stream: JsonStream, reader: BoxReader) -> Iterator[tuple[str, Any]]:
    """For every picture with boxes: its id, and its sample or the `UnusableError` that says why there is none.

    After the pictures follow, as errors with their id, the annotations whose picture is not in the file and the refs
    whose annotation is not.

    The name of a box is the first of these that exists: a `ref` of the annotation (REFER: `refs` beside `annotations`;
    then boxes without one are ignored), a text in the annotation itself, the `caption` of the picture (MDETR), the name
    of the category. Crowds (`iscrowd`) are left out. The lists are collected in a temporary, nameless database on disk,
    so nothing is left behind.

    Raises:
        StreamError: the file is not JSON, or has no pictures or no annotations.
    """
    with closing(sqlite3.connect("")) as database:  # a temporary file, unlinked once it is open
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
        has_refs = _gather(stream, database, reader)
        database.executescript(INDEXES)
        rows = database.execute(JOINED, (int(has_refs),))
        for _, group in groupby(rows, key=lambda row: row[0]):
            rows_of_picture = list(group)
            _, number, name, *size, labels = rows_of_picture[0][:6]
            boxes = [_labelled(row, labels) for row in rows_of_picture]
            named = [box for box in boxes if box.labels]
            if len(named) < len(boxes):
                reader.report.notes[NAMELESS] += len(boxes) - len(named)
            try:
                if not name:
                    raise UnusableError("malformed record", "a picture without a file_name")
                yield number, reader.sample(number, name, tuple(size), named)
            except UnusableError as error:
                yield number, error
        for number, picture in database.execute(LOST_BOXES, (int(has_refs),)):
            detail = f"annotation {number} has image_id {picture}, which is not among the `images`"
            yield number, UnusableError("malformed record", detail)
        for (number,) in database.execute(LOST_REFS):
            detail = f"a ref has ann_id {number}, which is not among the `annotations` or is a crowd"
            yield number, UnusableError("malformed record", detail)


def _gather(stream: JsonStream, database: sqlite3.Connection, reader: BoxReader) -> bool:
    """Fill the tables from the lists of the file; returns whether there are refs."""
    seen = set()
    for section, item in stream.sections(SECTIONS.__contains__):
        seen.add(section)
        if not isinstance(item, dict):
            raise StreamError(f"{stream.path}: expected objects in {section!r}, found {str(item)[:80]!r}")
        if section == "images":
            size = (_number(item.get("width")), _number(item.get("height")))
            row = (_id(item, "id"), _text(item.get("file_name")), *size, _labels(item))
            database.execute("INSERT INTO picture VALUES (NULL, ?, ?, ?, ?, ?)", row)
        elif section == "categories":
            database.execute("INSERT OR REPLACE INTO kind VALUES (?, ?)", (_id(item, "id"), _text(item.get("name"))))
        elif section == "refs":
            database.execute("INSERT INTO ref VALUES (?, ?)", (_id(item, "ann_id"), _labels(item)))
        elif item.get("iscrowd"):
            reader.report.notes["boxes left out (crowds)"] += 1
        else:
            numbers = json.dumps(item.get("bbox", item.get("box")))
            row = (_id(item, "id"), _id(item, "image_id"), numbers, _id(item, "category_id"), _labels(item))
            database.execute("INSERT INTO box VALUES (NULL, ?, ?, ?, ?, ?)", row)
    if "images" not in seen or not seen & {"annotations", "anns"}:
        raise StreamError(
            f"{stream.path}: an object without the lists `images` and `annotations` of COCO; a list of "
            "conversations, or one per line, can be read too"
        )
    return "refs" in seen


def _labelled(row: tuple, of_picture: str | None) -> Labelled:
    numbers, own, ref, kind = row[6:]
    texts = ref or own or of_picture
    return Labelled(json.loads(numbers), tuple(json.loads(texts)) if texts else (kind,) if kind else (), not texts)


def _labels(item: dict[str, Any]) -> str | None:
    texts = expressions(item)
    return json.dumps(texts) if texts else None


def _id(item: dict[str, Any], key: str) -> str | None:
    value = item.get(key)
    return None if value is None else _text(str(value))


def _text(value: Any) -> str | None:
    """`value` without halves of surrogate pairs, which JSON may contain and the database refuses."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None
