"""Pictures with captions: COCO's form (Flickr30k and NoCaps of the original) and Karpathy's. Plain Python."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data.source import DataError, Folder, text_list, value
from mindformers_qwenvl.evaluate.samples import Sample

__all__ = ["FORMS", "caption_samples"]

FORMS = """\
{"images": [{"id", "image" or "file_name"}], "annotations": [{"image_id", "caption"}]}; Karpathy's {"images":
[{"filename", "split", "sentences": [{"raw"}]}]}; JSON Lines {"image", "references"}"""
KARPATHY_SPLIT = "test"


def caption_samples(loaded: Any, path: Path, folder: Folder, *, split: str = "") -> list[Sample]:
    """The pictures of a file that was read, with their references; see FORMS. `split`: of Karpathy's; "" is test.

    Raises:
        DataError: the file has another form.
    """
    if isinstance(loaded, list):
        return [_line(row, number, f"{path}: record {number}", folder) for number, row in enumerate(loaded, 1)]
    images = loaded.get("images") if isinstance(loaded, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise DataError(f"{path}: not in a known form; the known forms are {FORMS}")
    if any("sentences" in image for image in images[:1]):
        return _karpathy(images, path, folder, split.replace("karpathy_", "") or KARPATHY_SPLIT)
    references: dict[Any, list[str]] = defaultdict(list)
    for number, row in enumerate(loaded.get("annotations") or (), 1):
        where = f"{path}: annotation {number}"
        references[value(row, "image_id", where, (str, int))].append(value(row, "caption", where))
    samples = []
    for number, image in enumerate(images, 1):
        where = f"{path}: image {number}"
        identity = value(image, "id", where, (str, int))
        name = folder.find(value(image, ("image", "file_name"), where))
        keys = {"image_id": identity}
        samples.append(Sample(identity, (name,), answers=tuple(references.pop(identity, ())), keys=keys))
    if references:
        raise DataError(f"{path}: captions of image {next(iter(references))!r}, which is not among the images")
    return samples


def _karpathy(images: list[dict[str, Any]], path: Path, folder: Folder, split: str) -> list[Sample]:
    samples = []
    for number, image in enumerate(images, 1):
        where = f"{path}: image {number}"
        if image.get("split") != split:
            continue
        name = value(image, "filename", where)
        name = f"{image['filepath']}/{name}" if image.get("filepath") else name
        sentences = value(image, "sentences", where, list)
        texts = tuple(value(sentence, "raw", where) for sentence in sentences)
        samples.append(Sample(image.get("imgid", number), (folder.find(name),), answers=texts))
    if not samples:
        known = ", ".join(sorted({str(image.get("split")) for image in images}))
        raise DataError(f"{path}: no pictures of the split {split!r}; there are {known}")
    return samples


def _line(row: dict[str, Any], number: int, where: str, folder: Folder) -> Sample:
    name = folder.find(value(row, ("image", "file_name"), where))
    identity = row.get("image_id", row.get("id", number))
    texts = text_list(row.get("references", row.get("captions", row.get("caption"))), where)
    return Sample(identity, (name,), answers=texts, keys={"image_id": identity})
