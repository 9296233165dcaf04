"""Turns a conversation into the columns of a training sample (tokens, labels, pictures), or leaves it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mindformers.tools.logger import logger

from mindformers_qwenvl.datasets.ahead import prepared
from mindformers_qwenvl.datasets.annotations import SampleNote, split_note
from mindformers_qwenvl.pictures.images import ImageSource, ImageTransform, start_image
from mindformers_qwenvl.text.columns import training_columns
from mindformers_qwenvl.text.layout import BadSampleError, ImageCutError, training_sample
from mindformers_qwenvl.text.rows import IGNORE, Row

__all__ = ["TrainingSamples"]


class TrainingSamples:
    """What `QwenVLContentTransformTemplate` does in training; see there for the settings.

    Args:
        tokenizer: a `QwenVLTokenizer`.
        layout: the keyword arguments of `text.layout.training_sample`, `max_length` and `image_overflow` among them.
        images: how many images a sample has room for.
        slots: tokens of an image.
        transform: turns pictures into pixels.
        root: folder of the pictures, for samples whose note names none.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: Mapping[str, Any],
        *,
        images: int,
        slots: int,
        transform: ImageTransform,
        root: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.layout = layout
        self.images = images
        self.slots = slots
        self.transform = transform
        self.root = root
        self._skipped: set[str] = set()

    def make(self, conversation: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Lay out a conversation, with or without a note of `QwenVLDataLoader` before it, and read its pictures.

        Returns:
            input_ids and labels int32 [S + 1], image_context_pos int32 [N, Q, 2], images uint8 [N, H, W, 3].

        Raises:
            BadSampleError: the message names the sample (file, number and id if it has a note) and the reason.
        """
        note, turns = split_note(conversation)
        where = note.where if note else _beginning(turns)
        try:
            columns, started = prepared(turns, note, self._prepare)
            images = self._transform_for(note).stack(started, root=self._root(note), count=self.images)
        except ImageCutError as error:
            if self.layout["image_overflow"] == "error":
                raise BadSampleError(f"{where}: {error}") from error
            columns = self._without_pictures(self._skip(where, str(error)))
            images = self.transform.stack((), count=self.images)
        except (ValueError, OSError) as error:
            raise BadSampleError(f"{where}: {error}") from error
        return {**columns, "images": images}

    def _prepare(
        self, turns: list[tuple[str, str]], note: SampleNote | None
    ) -> tuple[dict[str, np.ndarray], list[ImageSource]]:
        """Everything before decoding the pictures; the loader's thread may call it."""
        sample = self.lay_out(turns)
        root, policy = self._root(note), self._transform_for(note).policy
        return self._without_pictures(sample), [start_image(path, root=root, policy=policy) for path in sample.images]

    def lay_out(self, turns: list[tuple[str, str]]) -> Row:
        """The sample before padding.

        Raises:
            ImageCutError: it has more images than there is room for, or `max_length` cuts an image.
            BadSampleError: see `training_sample`.
        """
        sample = training_sample(turns, self.tokenizer, **self.layout)
        if len(sample.images) > self.images:
            raise ImageCutError(
                f"{len(sample.images)} images, modal_content_padding_size is {self.images}; "
                "raise it, or set image_overflow: skip_sample"
            )
        return sample

    def _without_pictures(self, sample: Row) -> dict[str, np.ndarray]:
        length = self.layout["max_length"] + 1
        return training_columns(sample, length, self.tokenizer.pad_token_id, self.images, self.slots)

    def _root(self, note: SampleNote | None) -> str:
        return note.root if note and note.root else self.root

    def _transform_for(self, note: SampleNote | None) -> ImageTransform:
        if note is None or not note.root or note.confined:
            return self.transform
        return replace(self.transform, policy=replace(self.transform.policy, allow_outside=True))

    def _skip(self, where: str, reason: str) -> Row:
        """The conversation that replaces a sample that is left out: real tokens, nothing to learn."""
        if where not in self._skipped:
            self._skipped.add(where)
            logger.warning("%s: left out of training: %s", where, reason)
        roles = (self.layout["user_role_name"], self.layout["assistant_role_name"])
        empty = training_sample(
            [(role, "") for role in roles],
            self.tokenizer,
            **{**self.layout, "user_prompt": "", "assistant_prompt": "", "system_message": ""},
        )
        return Row(empty.input_ids, labels=np.full_like(empty.labels, IGNORE))


def _beginning(turns: Sequence[tuple[str, str]]) -> str:
    begins = f"{turns[0][0]}: {turns[0][1][:100]!r}" if turns else "nothing"
    return f"sample that begins with {begins} (QwenVLDataLoader would name file and id)"
