"""`QwenVLContentTransformTemplate`: Qwen-VL's layout and pictures behind MindFormers' multimodal transforms.

The host's `BaseXModalToTextTransform` calls the methods of a template one after another, and tokenises the strings it
gets in between. Qwen-VL's layout tokenises a turn in pieces, so the first method does the whole sample, in training
through `training.py`, and the later ones hand out its parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindformers.models.multi_modal.modal_content import (
    BaseImageContentBuilder,
    BaseTextContentBuilder,
    ModalContentTransformTemplate,
)
from mindformers.models.multi_modal.utils import DataRecord
from mindspore import Tensor

from mindformers_qwenvl.data.sample import TrainingSamples
from mindformers_qwenvl.pictures.images import CLIP_MEAN, CLIP_STD, ImagePolicy, ImageTransform, image_name
from mindformers_qwenvl.text.columns import image_positions
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE, Sample, chat_sample, query_sample
from mindformers_qwenvl.text.row_text import output_text

__all__ = ["QwenVLContentTransformTemplate"]


class QwenVLContentTransformTemplate(ModalContentTransformTemplate):
    """Turns conversations into training columns, and queries into prompts.

    Columns, N images of Q slots each (Q: `num_queries`), S: `max_length`:

    - `input_ids` int32 [S + 1] in training, [L] in prediction; `labels` int32 [S + 1], -100 where not trained;
    - `images` uint8 [N, H, W, 3] in training (`BatchToTensor` and `BatchNormalize` of the YAML follow), float32
      [N, 3, H, W] in prediction;
    - `image_context_pos` int32 [N, Q, 2] of (row, position). In training N is always `modal_content_padding_size`; an
      image that a sample has not is black and has position -1 everywhere, and the network leaves it out.

    Args:
        output_columns: columns to give, in this order. Default: those above (no labels in prediction).
        tokenizer: a `QwenVLTokenizer`; None if the transform brings it.
        mode: "train" or "predict".
        vstack_columns: accepted for the host; the columns here are stacked row by row.
        modal_content_padding_size: images of a training sample, at most.
        max_length: tokens of a training sample, S.
        image_size: side of the squares that pictures are resized to.
        num_queries: slots of an image; None leaves it to the tokenizer, otherwise the tokenizer is set to it.
        dataset_dir: folder that relative paths of pictures start from, and that no path leaves unless `image_policy`
            says so. A `dataset_dir` of the data loader goes first. Without either, absolute paths may lead anywhere.
        system_message: text of the system turn.
        user_role_name, assistant_role_name: `from` of the conversations' turns.
        user_prompt, assistant_prompt: put in front of every text of that role.
        image_overflow: what to do with a training sample that has more than `modal_content_padding_size` images, or
            whose images `max_length` cuts: "error", or "skip_sample": an empty conversation without labels takes its
            place, which adds nothing to loss and gradients, and a warning names the sample once.
        chat_format: prompts of prediction: "raw", the query as it is, or "chatml", the frame of the chat model and of
            fine-tuned ones.
        interpolation, mean, std, exif_rotation: see `images.ImageTransform`; mean and std are for prediction.
        image_policy: an `ImagePolicy`, or its YAML section: where pictures may come from, how large they may be.

    Raises:
        ValueError: an argument makes no sense. A sample that cannot be used raises `BadSampleError` with its name.
    """

    def __init__(
        self,
        output_columns: Sequence[str] | None = None,
        tokenizer: Any = None,
        mode: str = "predict",
        vstack_columns: Sequence[str] | None = None,
        modal_content_padding_size: int = 1,
        max_length: int = 2048,
        image_size: int = 448,
        num_queries: int | None = None,
        dataset_dir: str | os.PathLike[str] = "",
        system_message: str = SYSTEM_MESSAGE,
        user_role_name: str = "user",
        assistant_role_name: str = "assistant",
        user_prompt: str = "",
        assistant_prompt: str = "",
        image_overflow: str = "error",
        chat_format: str = "raw",
        interpolation: str = "bicubic",
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        exif_rotation: bool = False,
        image_policy: ImagePolicy | Mapping[str, Any] | None = None,
    ) -> None:
        _one_of("mode", mode, ("train", "predict"))
        _one_of("image_overflow", image_overflow, ("error", "skip_sample"))
        _one_of("chat_format", chat_format, ("raw", "chatml"))
        if modal_content_padding_size < 1:
            raise ValueError(f"modal_content_padding_size must be at least 1, got {modal_content_padding_size}")
        possible = ["input_ids", "images", "image_context_pos"] + ["labels"] * (mode == "train")
        if mode == "predict" and output_columns is not None:  # the same YAML section serves both modes
            output_columns = [column for column in output_columns if column != "labels"]
        for column in output_columns or ():
            _one_of("output_columns", column, possible)
        super().__init__(
            output_columns=list(output_columns or possible),
            mode=mode,
            vstack_columns=vstack_columns,
            modal_content_padding_size=modal_content_padding_size,
            max_length=max_length,
        )
        self.num_queries = num_queries
        self.dataset_dir = os.fspath(dataset_dir or "")
        self.chat_format = chat_format
        self.layout = {
            "max_length": max_length,
            "system_message": system_message,
            "user_role_name": user_role_name,
            "assistant_role_name": assistant_role_name,
            "user_prompt": user_prompt,
            "assistant_prompt": assistant_prompt,
            "image_overflow": image_overflow,
        }
        policy = ImagePolicy.of(image_policy)
        self.image_transform = ImageTransform(image_size, interpolation, tuple(mean), tuple(std), exif_rotation, policy)
        if tokenizer is not None:
            self.check_modal_builder_tokens(tokenizer)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, as plain values for a YAML (without tokenizer and mode)."""
        image = self.image_transform
        return {
            "type": type(self).__name__,
            "output_columns": list(self.output_columns),
            "modal_content_padding_size": self.modal_content_padding_size,
            "num_queries": self.num_queries,
            "dataset_dir": self.dataset_dir,
            "chat_format": self.chat_format,
            "image_size": image.size,
            "interpolation": image.interpolation,
            "mean": list(image.mean),
            "std": list(image.std),
            "exif_rotation": image.exif_rotation,
            **({"image_policy": image.policy.to_dict()} if image.policy != ImagePolicy() else {}),
            **self.layout,
        }

    def check_modal_builder_tokens(self, tokenizer: Any) -> None:
        """Take the tokenizer; the host calls this too, if the template was made without one."""
        if self.num_queries is not None and tokenizer.image_slots != self.num_queries:
            tokenizer.image_slots = self.num_queries
        self.tokenizer = tokenizer
        self.num_queries = tokenizer.image_slots
        self.training = TrainingSamples(
            tokenizer,
            self.layout,
            images=self.modal_content_padding_size,
            slots=self.num_queries,
            transform=self.image_transform,
            root=self.dataset_dir,
        )
        # The host asks these for the modalities and, when serving with MindIE, for the pad id; they do no work here.
        image = BaseImageContentBuilder(
            context_pad_token=tokenizer.image_pad_tag,
            context_length=self.num_queries,
            image_size=self.image_transform.size,
            image_location=self.dataset_dir,
            start_token=tokenizer.image_start_tag,
            end_token=tokenizer.image_end_tag,
            tokenizer=tokenizer,
            need_padding_context=False,
            modal_content_max_size=self.modal_content_padding_size,
            mode=self.mode,
            max_length=self.max_length,
        )
        image.start_token_id = tokenizer.img_start_id
        image.end_token_id = tokenizer.img_end_id
        image.context_pad_token_id = tokenizer.img_pad_id
        self.modal_builders = {"image": image, "text": BaseTextContentBuilder()}
        self.has_init_modal_builder_tokens = True

    # ---- training

    def process_train_item(self, conversation_list: Sequence[Sequence[str]], result_recorder: DataRecord) -> list[str]:
        """Lay out a conversation and read its pictures.

        Raises:
            BadSampleError: names the sample (file, number and id with `QwenVLDataLoader`) and the reason.
        """
        result_recorder.put("columns", self.training.columns(conversation_list))
        return [""]

    def build_labels(self, text_id_list: Any, result_recorder: DataRecord, **kwargs: Any) -> np.ndarray:
        """Labels int32 [S + 1] of the sample at hand."""
        return result_recorder.get("columns")["labels"]

    def get_need_update_output_items(self, result: DataRecord) -> dict[str, np.ndarray]:
        """The columns of a training sample."""
        return result.get("columns") if self.mode == "train" else {}

    # ---- prediction

    def process_predict_query(self, query_ele_list: Sequence[dict[str, Any]], result_recorder: DataRecord) -> list[str]:
        """Lay out a query `[{"image": ...}, {"text": ...}, {"box": ..., "ref": ...}]` and read its pictures.

        An image is anything `images.open_image` takes. The host tokenises what this returns, for nothing: the tokens
        are those of `prompt`, and an image's path or address may be longer than a tokenizer takes.

        Raises:
            ValueError, FileNotFoundError: the query cannot be used; names the element or the picture.
        """
        elements, sources = _name_images(query_ele_list)
        sample = self.prompt(elements)
        pixels = self.image_transform.stack([sources.get(name, name) for name in sample.images], root=self.dataset_dir)
        result_recorder.put("sample", sample)
        result_recorder.put("images", self.image_transform.normalise(pixels))
        return [""]

    def prompt(self, query: Sequence[dict[str, Any]]) -> Sample:
        """Tokens of a query and where its images are, in the frame that `chat_format` says; reads no picture."""
        elements, _ = _name_images(query)
        if self.chat_format == "chatml":
            sample = chat_sample(elements, self.tokenizer, system=self.layout["system_message"])
        else:
            sample = query_sample(elements, self.tokenizer)
        if not len(sample.input_ids):
            raise ValueError(f"the query {elements} has neither text nor images")
        return sample

    def batch(self, data_list: Sequence[dict[str, Any]], token_padding_length: int, **kwargs: Any) -> dict[str, Any]:
        """Columns of a batch: input_ids int32 [B, S] padded on the right, images float32 [B, N, 3, H, W] and
        image_context_pos int32 [B, N, Q, 2] as Tensors; N is the largest number of images in a row, at least 1."""
        count = max(1, *(len(data["images"]) for data in data_list)) if "images" in self.output_columns else 1
        columns: dict[str, Any] = {
            "input_ids": self.batch_input_ids([data["input_ids"] for data in data_list], token_padding_length).astype(
                np.int32
            )
        }
        if "images" in self.output_columns:
            size = self.image_transform.size
            images = np.zeros((len(data_list), count, 3, size, size), np.float32)
            for row, data in zip(images, data_list, strict=True):
                row[: len(data["images"])] = data["images"]
            columns["images"] = Tensor(images)
        if "image_context_pos" in self.output_columns:
            positions = np.stack([image_positions((), count, self.num_queries, row) for row in range(len(data_list))])
            for row, data in zip(positions, data_list, strict=True):
                row[: len(data["image_context_pos"])] = data["image_context_pos"]
            columns["image_context_pos"] = Tensor(positions)
        return {column: columns[column] for column in self.output_columns}

    def post_process(
        self,
        output_ids: Sequence[Sequence[int]],
        prompts: Sequence[Sample | None] | None = None,
        skip_special_tokens: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Texts of generated rows, each with its prompt (None: not known); see `output.output_text`. With
        `chat_format: chatml` a text is the answer alone, if the prompt is known."""
        return [
            output_text(
                self.tokenizer,
                ids,
                prompt,
                answer_only=self.chat_format == "chatml",
                skip_special_tokens=skip_special_tokens,
            )
            for ids, prompt in zip(output_ids, prompts or [None] * len(output_ids), strict=True)
        ]

    # ---- both

    def build_conversation_input_text(self, raw_inputs: Sequence[str], result_recorder: DataRecord) -> Any:
        """The stand-in whose tokens `build_modal_context` replaces."""
        return "".join(raw_inputs) if self.mode == "predict" else raw_inputs

    def build_modal_context(self, input_ids: Any, result_recorder: DataRecord, **kwargs: Any) -> np.ndarray:
        """input_ids int32 of the sample at hand, image slots filled with pads: [S + 1] in training, else [L]."""
        if self.mode == "train":
            return result_recorder.get("columns")["input_ids"]
        return result_recorder.get("sample").input_ids

    def generate_modal_context_positions(
        self, input_ids: Any, batch_index: int = 0, result_recorder: DataRecord | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """int32 [n, Q, 2] of the n images of a query. In training the host passes no record; see
        `get_need_update_output_items`."""
        if result_recorder is None:
            return {}
        spans = result_recorder.get("sample").spans
        return {"image_context_pos": image_positions(spans, len(spans), self.num_queries, batch_index)}


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _name_images(elements: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The elements with a name for every image that has none, and these images; see `image_name`."""
    if not isinstance(elements, list | tuple):
        raise ValueError(f'a query is a list like [{{"image": path}}, {{"text": "..."}}], got {elements!r}')
    images: dict[str, Any] = {}
    named = []
    for element in elements:
        if isinstance(element, dict) and "image" in element:
            element = {**element, "image": image_name(element["image"], images)}
        named.append(element)
    return named, images
