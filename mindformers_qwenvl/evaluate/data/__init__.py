"""From files of benchmarks to samples: official ones, those that the original converted, and conversations.

- `source`: JSON, JSON Lines and tables, and where their pictures are.
- `captions`, `vqa`, `choices`, `grounding`: captions, questions, multiple choice, expressions with a box.
- `ai2d`, `mme`: benchmarks that are folders.
- `conversations`: the form that fine-tuning reads; `answers`: answers that exist already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mindformers_qwenvl.evaluate.data import ai2d, captions, choices, grounding, mme, vqa
from mindformers_qwenvl.evaluate.data.conversations import conversation_samples, is_conversations
from mindformers_qwenvl.evaluate.data.source import DataError, Folder, load
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import Task

__all__ = ["DataError", "Loaded", "read_samples"]


# Where the archives of the benchmarks put a picture that their files name without its folder.
PLACES = (
    *("images/{}", "train_images/{}", "val2014/{}", "train2014/{}", "test2015/{}"),
    *("png/{}", "test/png/{}", "documents/{}", "val/documents/{}", "flickr30k-images/{}"),
)


@dataclass(frozen=True)
class Loaded:
    """samples: in the order of the file; left_out: how many records are not asked, by reason; conversations: whether
    they are asked in the words of their users."""

    samples: list[Sample]
    left_out: dict[str, int] = field(default_factory=dict)
    conversations: bool = False


def read_samples(
    task: Task, path: Path, image_dir: Path | None = None, *, split: str = "", annotations: Path | None = None
) -> Loaded:
    """The samples of a benchmark's file (for MME and AI2D, its folder).

    Args:
        task: whose file it is.
        path: the file.
        image_dir: the folder of its pictures; None: that of the file.
        split: for files that hold several.
        annotations: the official answers or boxes, if in a second file; for AI2D the list of test pictures.

    Raises:
        DataError: it has a form that the task does not know, two samples have the same id, or pictures are missing.
        OSError: it cannot be read.
    """
    left_out: dict[str, int] = {}
    is_mme, is_ai2d = task.metric == "mme", task.name == "ai2d" and path.is_dir()
    folder = Folder(image_dir or (path if path.is_dir() else path.parent), PLACES)
    loaded = None if is_mme or is_ai2d else grounding.load_refs(path) if task.metric == "grounding" else load(path)
    conversations = is_conversations(loaded)
    if is_mme:
        samples = mme.mme_samples(path, folder)
    elif is_ai2d:
        samples = ai2d.ai2d_samples(path, folder, left_out, split=split, test_ids=annotations)
    elif conversations:
        samples = conversation_samples(loaded, path, folder, left_out, boxes=task.metric == "grounding")
    elif task.metric == "captions":
        samples = captions.caption_samples(loaded, path, folder, split=split)
    elif task.metric == "grounding":
        samples = grounding.grounding_samples(loaded, path, folder, split=split, annotations=annotations)
    elif task.by_likelihood:
        samples = choices.choice_samples(loaded, path, folder, left_out, split=split)
    else:
        people = task.metric == "vqa_score"
        samples = vqa.vqa_samples(loaded, path, folder, split=split, annotations=annotations, people=people)
    _check(samples, path, folder, left_out)
    return Loaded(samples, left_out, conversations)


def _check(samples: list[Sample], path: Path, folder: Folder, left_out: dict[str, int]) -> None:
    if not samples:
        why = "; ".join(f"{count} left out, {reason}" for reason, count in left_out.items())
        raise DataError(f"{path}: nothing to ask{f' ({why})' if why else ''}")
    seen: set[str] = set()
    for sample in samples:
        if str(sample.id) in seen:
            raise DataError(f"{path}: two records have the id {sample.id!r}; ids must differ")
        seen.add(str(sample.id))
    names = {name for sample in samples for name in sample.images}
    missing = sorted(
        name for name in names if not name.startswith(("data:", "http://", "https://")) and not folder.has(name)
    )
    if missing:
        shown = ", ".join(missing[:3])
        raise DataError(
            f"{len(missing)} of {len(names)} pictures are not in {folder.path}: {shown}"
            f"{', ...' if len(missing) > 3 else ''}; give the folder they are in with --image-dir"
        )
