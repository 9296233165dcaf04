"""`QwenVLContentTransformTemplate`: Qwen-VL's layout and pictures behind MindFormers' multimodal transforms.

The host's `BaseXModalToTextTransform` calls the methods of a template one after another, and tokenises the strings that
they return. Qwen-VL's layout tokenises a turn in pieces, so the first method prepares the whole sample (in training by
sample.py), and the later ones hand out its parts.
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

from mindformers_qwenvl.checks import arguments_of, refuse_unknown, whole
from mindformers_qwenvl.data.image_processor import image_settings
from mindformers_qwenvl.data.sample import TrainingSamples
from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.pictures.images import CLIP_MEAN, CLIP_STD, ImagePolicy, ImageTransform
from mindformers_qwenvl.text.columns import NO_POSITION, batch_columns, image_positions
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.reply import row_text
from mindformers_qwenvl.text.rows import Row

__all__ = ["QwenVLContentTransformTemplate"]


class QwenVLContentTransformTemplate(ModalContentTransformTemplate):
    """Turns conversations into training columns, and queries into prompts.

    Columns, with N images of Q slots each (Q: `num_queries`) and S = `max_length`:

    - `input_ids` int32 [S + 1] in training, [L] in prediction; `labels` int32 [S + 1], -100 where not trained;
    - `images` uint8 [N, H, W, 3] in training (`BatchToTensor` and `BatchNormalize` of the YAML follow), float32
      [N, 3, H, W] in prediction;
    - `image_context_pos` int32 [N, Q, 2] of (row, position). In training N is always `modal_content_padding_size`;
      missing images are black, at position -1, and the network leaves them out.

    Args:
        output_columns: columns to return, in this order. Default: those above (no labels in prediction).
        tokenizer: a `QwenVLTokenizer`; None if the transform supplies it.
        mode: "train" or "predict".
        vstack_columns: accepted for the host; the columns here are stacked row by row.
        modal_content_padding_size: the largest number of images in a training sample.
        max_length: tokens of a training sample, S.
        image_size: side of the squares that pictures are resized to.
        num_queries: slots of an image; None leaves it to the tokenizer, otherwise the tokenizer is set to it.
        dataset_dir: folder where relative paths of pictures start. No path may leave it unless `image_policy` says so.
            The data loader's `dataset_dir` takes precedence. Without either, absolute paths may lead anywhere.
        system_message: text of the system turn.
        user_role_name, assistant_role_name: `from` of the conversations' turns.
        user_prompt, assistant_prompt: put before each text of that role.
        image_overflow: what to do with a training sample that has more than `modal_content_padding_size` images, or
            whose images `max_length` cuts: "error"; or "skip_sample", which puts an empty conversation without labels
            in its place (it adds nothing to loss and gradients) and logs a warning that names the sample, once.
        chat_format: how prompts are framed in prediction: "raw", the query as it is; or "chatml", the frame of the chat
            model and of fine-tuned ones.
        interpolation, mean, std, exif_rotation: see `images.ImageTransform`; mean and std are used in prediction only.
        image_policy: an `ImagePolicy`, or its YAML section: where pictures may come from, how large they may be.

    Raises:
        ValueError: an argument is not one of those above; the message names it. A sample that cannot be used
            raises `BadSampleError`, which names it.
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
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, _ARGUMENTS)
        _one_of("mode", mode, ("train", "predict"))
        _one_of("image_overflow", image_overflow, ("error", "skip_sample"))
        _one_of("chat_format", chat_format, ("raw", "chatml"))
        whole("modal_content_padding_size", modal_content_padding_size)
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
        return {
            "type": type(self).__name__,
            "output_columns": list(self.output_columns),
            "modal_content_padding_size": self.modal_content_padding_size,
            "num_queries": self.num_queries,
            "dataset_dir": self.dataset_dir,
            "chat_format": self.chat_format,
            **image_settings(self.image_transform),
            **self.layout,
        }

    def check_modal_builder_tokens(self, tokenizer: Any) -> None:
        """Take the tokenizer. The host calls this if the template was made without one."""
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
        # The host reads the modalities from these and, when it serves with MindIE, the pad id; they do no work here.
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
            BadSampleError: the message names the sample (file, number, id with `QwenVLDataLoader`) and the reason.
        """
        columns = self.training.make(conversation_list)
        self._check_columns((columns["image_context_pos"][..., 1] != NO_POSITION).any())
        result_recorder.put("columns", columns)
        return [""]

    def _check_columns(self, has_images: bool) -> None:
        """Raise ValueError if pictures would be left out of the columns: their slots would be read without them."""
        missing = [name for name in ("images", "image_context_pos") if name not in self.output_columns]
        if has_images and missing:
            raise ValueError(
                f"model_transform_template: output_columns lacks {' and '.join(missing)}, but there are pictures, "
                "which would be left out"
            )

    def build_labels(self, text_id_list: Any, result_recorder: DataRecord, **kwargs: Any) -> np.ndarray:
        """Labels int32 [S + 1] of the current sample."""
        return result_recorder.get("columns")["labels"]

    def get_need_update_output_items(self, result: DataRecord) -> dict[str, np.ndarray]:
        """The columns of a training sample."""
        return result.get("columns") if self.mode == "train" else {}

    # ---- prediction

    def process_predict_query(self, query_ele_list: Sequence[dict[str, Any]], result_recorder: DataRecord) -> list[str]:
        """Lay out a query `[{"image": ...}, {"text": ...}, {"box": ..., "ref": ...}]` and read its pictures.

        An image is anything `images.open_image` takes. The host tokenises the text that this returns, so it is empty:
        the tokens come from `prompt`, where the path of an image may be longer than the tokenizer allows.

        Raises:
            ValueError, FileNotFoundError: the query cannot be used; the message names the element or the picture.
        """
        prompt = self.prompt(query_ele_list)
        self._check_columns(bool(prompt.image_sources))
        pixels = self.image_transform.stack(prompt.image_sources, root=self.dataset_dir)
        result_recorder.put("prompt", prompt)
        result_recorder.put("images", self.image_transform.normalise(pixels))
        return [""]

    def prompt(self, query: str | Sequence[dict[str, Any]]) -> Row:
        """Tokens of a query and where its images are, in the frame of `chat_format`. Opens no picture."""
        return make_prompt(self.tokenizer, query, system=self.layout["system_message"], chat_format=self.chat_format)

    def batch(self, data_list: Sequence[dict[str, Any]], token_padding_length: int, **kwargs: Any) -> dict[str, Any]:
        """Columns of a batch: input_ids int32 [B, S], padded on the right, and as Tensors images float32
        [B, N, 3, H, W] and image_context_pos int32 [B, N, Q, 2]; N is the largest number of images in a row, at least
        1."""
        columns: dict[str, Any] = batch_columns(
            data_list,
            self.tokenizer.pad_token_id,
            length=token_padding_length,
            black_image=(self.image_transform.size, self.num_queries),
        )
        for name in ("images", "image_context_pos"):
            columns[name] = Tensor(columns[name])
        return {column: columns[column] for column in self.output_columns}

    def post_process(
        self,
        output_ids: Sequence[Sequence[int]],
        prompts: Sequence[Row | None] | None = None,
        skip_special_tokens: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Texts of generated rows, each with its prompt (None: not known); see `text.reply.row_text`. With
        `chat_format: chatml` the text is only the answer, if the prompt is known."""
        return [
            row_text(
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
        """A placeholder, whose tokens `build_modal_context` replaces."""
        return "".join(raw_inputs) if self.mode == "predict" else raw_inputs

    def build_modal_context(self, input_ids: Any, result_recorder: DataRecord, **kwargs: Any) -> np.ndarray:
        """input_ids int32 of the current sample, image slots filled with pads: [S + 1] in training, else [L]."""
        if self.mode == "train":
            return result_recorder.get("columns")["input_ids"]
        return result_recorder.get("prompt").input_ids

    def generate_modal_context_positions(
        self, input_ids: Any, batch_index: int = 0, result_recorder: DataRecord | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """int32 [n, Q, 2] of the n images of a query. In training the host passes no record; see
        `get_need_update_output_items`."""
        if result_recorder is None:
            return {}
        spans = result_recorder.get("prompt").spans
        return {"image_context_pos": image_positions(spans, len(spans), self.num_queries, batch_index)}


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


_ARGUMENTS = arguments_of(QwenVLContentTransformTemplate)
