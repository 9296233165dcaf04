"""One sample, read as training would read it: what is wrong with it, how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from mindformers_qwenvl.datasets.annotations import AnnotationError, AnnotationFile
from mindformers_qwenvl.datasets.check.boxes import BOX_FAULTS, FOREIGN, box_faults
from mindformers_qwenvl.datasets.check.job import Settings
from mindformers_qwenvl.pictures.images import ImageError, ImageRefusedError, open_image
from mindformers_qwenvl.text.layout import BadSampleError, ImageCutError, training_sample
from mindformers_qwenvl.text.rows import IGNORE
from mindformers_qwenvl.text.vocabulary import Vocabulary
from mindformers_qwenvl.text.vocabulary_file import check_model

__all__ = ["FAULTS", "WARNINGS", "Checker", "Finding", "Result"]

UNCUT = 10**9  # a max_length that cuts nothing
FAULTS = (
    "malformed record",
    "unknown role",
    "unclosed tag",
    "missing picture",
    "broken picture",
    "huge picture",
    "refused picture",
    "too many images",
    "image cut by max_length",
)
WARNINGS = ("over max_length", "nothing to learn", "unclosed box or ref", *BOX_FAULTS)


@dataclass(frozen=True)
class Finding:
    """One remark about a sample. `kind` is one of FAULTS or WARNINGS; `fails`: training would stop there."""

    sample: int
    id: Any
    kind: str
    detail: str
    fails: bool


@dataclass(frozen=True)
class Result:
    """Numbers of one sample: its tokens before the cut, its trained tokens after the cut, its pictures.

    They are -1, 0, 0 for a sample that cannot be laid out.
    """

    tokens: int = -1
    trained: int = 0
    images: int = 0
    findings: tuple[Finding, ...] = ()


class Checker:
    """Checks the samples of one file. Forked processes share its vocabulary and index."""

    def __init__(self, file: AnnotationFile, settings: Settings) -> None:
        self.file = file
        self.settings = settings
        self.vocabulary = Vocabulary.from_file(
            settings.vocab_file, image_slots=settings.image_slots, tags=settings.tags
        )
        size = settings.model_vocabulary
        if isinstance(size, int) and self.vocabulary.size > size:
            raise ValueError(
                f"the vocabulary {self.vocabulary.name} has {self.vocabulary.size} ids, the model only {size}: set "
                "vocab_size in the YAML's llm_model, or vocab_file to the vocabulary of this model"
            )
        check_model(self.vocabulary.eod_id, self.vocabulary.name, settings.image_start_id, "the model of the YAML")
        allowed = settings.allowed_special
        self.vocabulary.allowed(allowed)
        self.tokenizer = SimpleNamespace(  # what `training_sample` needs of a tokenizer
            im_start_id=self.vocabulary.im_start_id,
            im_end_id=self.vocabulary.im_end_id,
            encode_with_images=lambda text: self.vocabulary.encode_with_images(text, allowed),
            encode_fixed=lambda text: self.vocabulary.encode_fixed(text, allowed),
        )
        tags = settings.tags
        self.tag_pairs = (
            (tags.ref_start, tags.ref_end),
            (tags.box_start, tags.box_end),
            (tags.quad_start, tags.quad_end),
        )
        training_sample(
            [(role, "") for role in self.roles], self.tokenizer, **settings.layout
        )  # raises if a setting is wrong
        # Often several samples in a row have the same picture.
        self._picture_fault = lru_cache(maxsize=1024)(self._open)

    @property
    def roles(self) -> tuple[str, str]:
        """The role names of user and assistant."""
        return self.settings.layout["user_role_name"], self.settings.layout["assistant_role_name"]

    def check(self, index: int) -> Result:
        """Check sample `index`."""
        findings: list[Finding] = []
        identity: Any = None

        def found(kind: str, detail: str, fails: bool = True) -> None:
            findings.append(Finding(index, identity, kind, detail, fails))

        try:
            record = self.file.record(index)
            identity = record.get("id") if isinstance(record, dict) else None
            _, turns = self.file.turns(index, record)
        except AnnotationError as error:
            found("malformed record", str(error).partition(f"sample {index}")[2].lstrip(" ,:"))
            return Result(findings=tuple(findings))
        sample = self._lay_out(turns, found)
        if sample is None:
            return Result(findings=tuple(findings))
        is_left_out = any(not finding.fails and finding.kind in FAULTS for finding in findings)
        for path in () if is_left_out else sample.images:
            if fault := self._picture_fault(path):
                found(*fault)
        self._check_boxes(turns, found)
        labels = sample.labels[: 0 if is_left_out else self.settings.max_length + 1]
        trained = int(np.count_nonzero(labels != IGNORE))
        return Result(len(sample.input_ids), trained, len(sample.images), tuple(findings))

    def _lay_out(self, turns: list[tuple[str, str]], found: Any) -> Any:
        for number, (role, _) in enumerate(turns):
            if role not in self.roles:
                found("unknown role", f"turn {number}: {role!r} is not one of {', '.join(map(repr, self.roles))}")
                return None
        layout, limit = self.settings.layout, self.settings.max_length
        fails = layout["image_overflow"] == "error"
        left_out = "" if fails else "; the sample is left out (image_overflow: skip_sample)"
        try:
            sample = training_sample(turns, self.tokenizer, **{**layout, "max_length": UNCUT})
        except (BadSampleError, ValueError) as error:
            found("unclosed tag" if "unclosed image tag" in str(error) else "malformed record", str(error))
            return None
        if len(sample.images) > self.settings.max_images:
            allowed = f"modal_content_padding_size allows {self.settings.max_images}"
            found("too many images", f"{len(sample.images)} images, {allowed}{left_out}", fails)
        if len(sample.input_ids) <= limit + 1:
            if not self._answers(turns, sample, limit):
                found("nothing to learn", "no answer has any text", False)
            return sample
        try:
            training_sample(turns, self.tokenizer, **layout)
        except ImageCutError as error:
            found("image cut by max_length", f"{error}{left_out}", fails)
        else:
            found("over max_length", self._where_cut(turns, sample, limit), False)
            if not self._answers(turns, sample, limit):
                found("nothing to learn", "no part of any answer is left within max_length", False)
        return sample

    def _answers(self, turns: list[tuple[str, str]], sample: Any, limit: int) -> bool:
        """Whether any trained token is part of an answer, not only of the frame that is trained in every turn."""
        ids, trained = sample.input_ids[: limit + 1], sample.labels[: limit + 1] != IGNORE
        starts = np.count_nonzero(ids == self.vocabulary.im_start_id)
        # The frame: `<|im_start|>`, and `<|im_end|>` with its newline unless they are cut off.
        ends = ids == self.vocabulary.im_end_id
        frame = starts + np.count_nonzero(ends) + np.count_nonzero(ends[:-1])
        return bool(np.count_nonzero(trained) > frame)

    def _where_cut(self, turns: list[tuple[str, str]], sample: Any, limit: int) -> str:
        total, lost = len(sample.input_ids), int(np.count_nonzero(sample.labels[limit + 1 :] != IGNORE))
        turn = int(np.count_nonzero(sample.input_ids[: limit + 1] == self.vocabulary.im_start_id)) - 2
        turn += turns[0][0] != self.roles[0] and turn >= 0  # the layout drops a first turn that is not the user's
        where = "the system turn" if turn < 0 else f"turn {turn}"
        return f"{total} tokens, cut after {limit + 1} in {where}; {lost} trained tokens are lost"

    def _check_boxes(self, turns: list[tuple[str, str]], found: Any) -> None:
        for number, (_, text) in enumerate(turns):
            for start, end in self.tag_pairs:
                if text.count(start) != text.count(end):
                    detail = f"turn {number}: {text.count(start)} {start} and {text.count(end)} {end}"
                    found("unclosed box or ref", detail, False)
            faults = box_faults(text, self.settings.tags)
            foreign = list(dict.fromkeys(fault.detail for fault in faults if fault.kind == FOREIGN))
            if foreign:
                found(FOREIGN, f"turn {number}: {', '.join(foreign)}", False)
            for fault in faults:
                if fault.kind != FOREIGN:
                    found(fault.kind, f"turn {number}: {fault.detail}", False)

    def _open(self, path: str) -> tuple[str, str] | None:
        """(kind, detail) of what is wrong with a picture, or None. It is decoded but not resized."""
        settings = self.settings
        try:
            open_image(path, root=settings.root, exif_rotation=settings.exif_rotation, policy=settings.policy)
        except ImageRefusedError as error:
            return ("huge picture" if error.rule in ("max_pixels", "max_side") else "refused picture"), str(error)
        except ImageError as error:
            return ("huge picture" if "too large" in str(error) else "broken picture"), str(error)
        except FileNotFoundError as error:
            return "missing picture", str(error)
        except OSError as error:
            return "broken picture", f"image {path}: {error}"
        return None
