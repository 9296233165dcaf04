"""Expressions with a box: RefCOCO, RefCOCO+, RefCOCOg. Plain Python."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_number
from mindformers_qwenvl.evaluate.data.source import DataError, Folder, load, value
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.files import read_bytes
from mindformers_qwenvl.weights.formats.torch_file import TextKeyUnpickler, check_instructions

__all__ = ["FORMS", "grounding_samples", "load_refs"]

FORMS = """\
the original's JSON Lines ({"image", "sent", "bbox", "width", "height"}, bbox as x1, y1, x2, y2 in pixels); REFER's
refs(unc).p, refs(google).p or the same as JSON, with instances.json beside it or given with --annotations"""


def grounding_samples(
    loaded: Any, path: Path, folder: Folder, *, split: str = "", annotations: Path | None = None
) -> list[Sample]:
    """The expressions of a file that was read; see FORMS. `split`: of REFER's: val, testA, testB or test.

    Raises:
        DataError: the file has another form, or a box is malformed.
    """
    if not isinstance(loaded, list) or not loaded or not all(isinstance(row, dict) for row in loaded):
        raise DataError(f"{path}: not in a known form; the known forms are {FORMS}")
    if "sentences" in loaded[0]:
        return list(_refer(loaded, path, folder, split, annotations or path.with_name("instances.json")))
    return [_line(row, number, f"{path}: record {number}", folder) for number, row in enumerate(loaded, 1)]


def _line(row: dict[str, Any], number: int, where: str, folder: Folder) -> Sample:
    size = tuple(value(row, name, where, (int, float)) for name in ("width", "height"))
    return Sample(
        row.get("id", number),
        (folder.find(value(row, "image", where)),),
        value(row, ("sent", "expression", "text"), where),
        box=_box(value(row, "bbox", where, list), where),
        size=_size(size, where),
    )


def _refer(refs: list[Any], path: Path, folder: Folder, split: str, instances: Path) -> Iterator[Sample]:
    if not instances.is_file():
        raise DataError(f"{path}: the boxes are in instances.json, but there is no {instances}; give --annotations")
    coco = load(instances)
    try:
        images = {image["id"]: image for image in coco["images"]}
        boxes = {annotation["id"]: annotation["bbox"] for annotation in coco["annotations"]}
    except (TypeError, KeyError) as error:
        raise DataError(f"{instances}: expected COCO's images and annotations, each with an id ({error})") from error
    splits = sorted({str(ref.get("split")) for ref in refs})
    if split not in splits:
        raise DataError(f"{path}: add a split to the task, such as refcoco_{splits[-1]}; there are {splits}")
    for ref in refs:
        if ref.get("split") != split:
            continue
        where = f"{path}: ref {ref.get('ref_id')}"
        image, box = images.get(ref.get("image_id")), boxes.get(ref.get("ann_id"))
        if image is None or box is None:
            raise DataError(f"{where}: its image or annotation is not in {instances}")
        x, y, width, height = _box(box, where)
        name = folder.find(value(image, "file_name", where))
        size = _size((image.get("width"), image.get("height")), where)
        for sentence in value(ref, "sentences", where, list):
            yield Sample(
                f"{ref['ref_id']}-{sentence.get('sent_id')}",
                (name,),
                value(sentence, "sent", where),
                box=(x, y, x + width, y + height),
                size=size,
            )


def _box(found: list[Any], where: str) -> tuple[float, float, float, float]:
    if len(found) != 4 or not all(map(is_number, found)):
        raise DataError(f"{where}: bbox must be four numbers, got {found!r}")
    return tuple(found)


def _size(found: tuple[Any, Any], where: str) -> tuple[float, float]:
    if not all(is_number(number, above=0) for number in found):
        raise DataError(f"{where}: width and height must be numbers above 0, got {found!r}")
    return found


# Limits for REFER's files: RefCOCO's is 10 MB, with 50,000 refs.
LONGEST_PICKLE = 64 << 20
MOST_VALUES = 5_000_000
PICKLE_FAULTS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError),
)


def load_refs(path: Path) -> Any:
    """REFER's pickle (`refs(unc).p`), or the same as JSON.

    Raises:
        DataError: it is damaged, or holds more than plain data.
    """
    if path.suffix != ".p":
        return load(path)
    try:
        content = read_bytes(path, LONGEST_PICKLE)
        check_instructions(content)
        refs = TextKeyUnpickler(io.BytesIO(content), encoding="utf-8").load()
        return _plain(refs, [MOST_VALUES])
    except (*PICKLE_FAULTS, RecursionError) as error:
        raise DataError(f"{path}: not a pickle of plain data ({type(error).__name__}: {error})") from None


def _plain(value: Any, left: list[int]) -> Any:
    """A copy of a value without shared parts, of at most `left[0]` values; tuples become lists."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    if isinstance(value, dict):
        return {key: _plain(part, left) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, left) for part in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
