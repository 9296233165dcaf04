"""`QwenVLProcessor`: queries to the inputs of `QwenVL.generate`, and its output to text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mindformers.models.build_processor import build_processor
from mindformers.models.multi_modal import BaseXModalToTextProcessor
from mindformers.tools.register import MindFormerConfig

from mindformers_qwenvl.checks import arguments_of, refuse_unknown
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.config.keys import without_hub
from mindformers_qwenvl.data.image_processor import QwenVLImageProcessor, image_settings
from mindformers_qwenvl.data.model_folder import PREPROCESSOR, processor_section
from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate
from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer
from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.generation.settings import generation_config_of
from mindformers_qwenvl.pictures.images import ImagePolicy
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.rows import Row
from mindformers_qwenvl.text.vocabulary_file import check_model

__all__ = ["QwenVLProcessor"]


class QwenVLProcessor(BaseXModalToTextProcessor):
    """Queries to the inputs of `QwenVL.generate`, and its output to text.

    `processor([{"image": "a.jpg"}, {"text": "What is it?"}])`, or a list of such lists for a batch, or a text, gives
    input_ids int32 [B, S], padded on the right; images float32 [B, N, 3, H, W]; image_context_pos int32 [B, N, Q, 2] of
    (row, position). Rows with fewer images than N have black ones at position -1, which the network leaves out.

    Args:
        image_processor: a `QwenVLImageProcessor`; the template takes its settings, unless it has its own.
        tokenizer: a `QwenVLTokenizer`.
        max_length: limit on the tokens of a prompt; None: no limit.
        model_transform_template: a `QwenVLContentTransformTemplate` in mode "predict", or its YAML section as a dict.
        num_queries: slots of an image; None leaves it to the template or the tokenizer. Old YAMLs call it
            `image_padding_size`.
        padding: pad a batch to its longest row ("longest") or always to `max_length` ("max_length").
        chat_format, system_message, dataset_dir: for the template, see there.
        image_policy: an `ImagePolicy`, or its YAML section; takes precedence over those of template and
            image_processor.
        prompt, return_tensors: accepted for old YAMLs, without effect.

    Raises:
        ValueError: no tokenizer, a bad padding, or settings that contradict each other; the message names them.
    """

    def __init__(
        self,
        image_processor: QwenVLImageProcessor | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        model_transform_template: QwenVLContentTransformTemplate | Mapping[str, Any] | None = None,
        num_queries: int | None = None,
        padding: str = "longest",
        chat_format: str = "raw",
        system_message: str = SYSTEM_MESSAGE,
        dataset_dir: str = "",
        image_padding_size: int | None = None,
        prompt: str | None = None,
        return_tensors: str = "ms",
        image_policy: ImagePolicy | Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("QwenVLProcessor", unknown, _ARGUMENTS)
        if tokenizer is None:
            raise ValueError("QwenVLProcessor needs a tokenizer (in a YAML: processor.tokenizer)")
        if padding not in ("longest", "max_length") or (padding == "max_length" and not max_length):
            raise ValueError(
                f"padding must be 'longest', or 'max_length' with a max_length, got {padding!r} and {max_length}"
            )
        template = model_transform_template
        if not isinstance(template, QwenVLContentTransformTemplate):
            settings = {
                **(image_processor.config if image_processor is not None else {}),
                "num_queries": num_queries or image_padding_size,
                "chat_format": chat_format,
                "system_message": system_message,
                "dataset_dir": dataset_dir,
                **_template_settings(template),
                **({"image_policy": image_policy} if image_policy is not None else {}),
            }
            template = QwenVLContentTransformTemplate(**settings, tokenizer=tokenizer, mode="predict")
            if image_processor is not None:  # when called directly, it reads pictures too
                policy = template.image_transform.policy
                image_processor.image_transform = replace(image_processor.image_transform, policy=policy)
        if image_policy is not None and ImagePolicy.of(image_policy) != template.image_transform.policy:
            raise ValueError(
                "image_policy differs from that of the model_transform_template, which already exists: set it there"
            )
        if template.mode != "predict":
            raise ValueError(
                f"a processor needs a model_transform_template with mode 'predict', this one has {template.mode!r}"
            )
        super().__init__(template, tokenizer, max_length=max_length, padding=padding, return_tensors=return_tensors)
        self.kwargs = {}
        self.template = template
        self.image_processor = image_processor or QwenVLImageProcessor(**image_settings(template.image_transform))
        if self.image_processor.image_transform != template.image_transform:
            raise ValueError(
                f"image_processor has the settings {self.image_processor.config}, model_transform_template "
                f"{image_settings(template.image_transform)}; they must agree"
            )
        self._prompts: list[Row] = []

    def __call__(self, query_list: Any, history_list: Any = None) -> dict[str, Any]:
        """Inputs of `generate` for one query or a batch of them, see the class.

        Raises:
            ValueError, FileNotFoundError: a query cannot be used; the message says which and why.
        """
        if history_list is not None:
            raise ValueError("history_list is not supported: write the earlier turns into the query")
        queries = _as_batch(query_list)
        rows, self._prompts = [], []
        for number, query in enumerate(queries):
            row = self.modal_transform.perform_predict_transform(query, batch_index=number)
            if self.max_length and len(row["input_ids"]) > self.max_length:
                raise ValueError(
                    f"query {number} has {len(row['input_ids'])} tokens, max_length allows {self.max_length}; "
                    "shorten the query, or raise max_length if the network takes more"
                )
            rows.append(row)
            self._prompts.append(self.modal_transform.result_recorder.get("prompt"))
        width = max(len(row["input_ids"]) for row in rows)
        return self.template.batch(rows, self.max_length if self.padding == "max_length" else width)

    def post_process(
        self,
        output_ids: Any,
        queries: Any = None,
        skip_special_tokens: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Texts of what `generate` returned, see `QwenVLContentTransformTemplate.post_process`.

        Args:
            output_ids: rows of ids; each begins with its prompt.
            queries: the queries of the rows. None: those of the last call, for rows that begin with their tokens.
            skip_special_tokens: leave out image, box and chat tokens.
        """
        rows = [[int(i) for i in np.asarray(row).reshape(-1)] for row in output_ids]
        known: Sequence[Row | None] = self._prompts
        if queries is not None:
            known = [self.template.prompt(query) for query in _as_batch(queries)]
        known = [*known, *[None] * len(rows)][: len(rows)]
        prompts = [
            prompt if prompt is not None and row[: len(prompt)] == prompt.input_ids.tolist() else None
            for row, prompt in zip(rows, known, strict=True)
        ]
        return self.template.post_process(rows, prompts, skip_special_tokens)

    # ---- files

    def save_pretrained(self, save_directory: str | os.PathLike[str] | None = None, save_name: str = "mindspore_model"):
        """Write the tokenizer's files and `save_name`.yaml. If the folder has a model's config.json, write
        preprocessor_config.json instead of the YAML, which would make MindFormers overlook the config.json.
        """
        folder = Path(save_directory or "./checkpoint_save")
        self.tokenizer.save_pretrained(str(folder))
        template = {key: value for key, value in self.template.config.items() if key not in _TRAINING_KEYS}
        self.config = {
            "image_processor": self.image_processor,
            "tokenizer": self.tokenizer,
            "max_length": self.max_length,
            "padding": self.padding,
            "model_transform_template": template,
        }
        if (folder / "config.json").is_file():
            settings = self._inverse_parse_config(self.config)
            content = {**self.image_processor.to_dict(), "processor": settings}
            with replacing(folder / PREPROCESSOR, "w") as file:
                file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        else:
            super().save_pretrained(str(folder), save_name)

    def _inverse_parse_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The host's YAML section, without the path of the vocabulary, which is in the same folder: so the folder
        can be moved."""
        section = super()._inverse_parse_config({key: value for key, value in config.items() if value is not None})
        plain = (str, int, float, bool)
        section["tokenizer"] = {
            key: value
            for key, value in section["tokenizer"].items()
            if key not in ("vocab_file", "name_or_path") and isinstance(value, plain)
        }
        return section

    @classmethod
    def for_network(
        cls,
        config: QwenVLConfig,
        tokenizer: Any,
        image_processor: Any = None,
        generation_config: Any = None,
        **given: Any,
    ) -> QwenVLProcessor:
        """The processor that fits a network: its image size and its slots per image.

        Args:
            config: of the network.
            tokenizer: a `QwenVLTokenizer`.
            image_processor: None: one with the network's image size.
            generation_config: if its `chat_format` is "chatml", prompts get the frame of a chat model.
            **given: other arguments of the class, which take precedence.

        Raises:
            ValueError: the tokenizer has the vocabulary of another model.
        """
        check_model(tokenizer.eod_id, tokenizer.vocab_file, config.image_start_id)
        if image_processor is None:
            image_processor = QwenVLImageProcessor(image_size=config.vision.image_size)
        chat_format = getattr(generation_config, "chat_format", None) or "raw"
        fitting = {"chat_format": chat_format, "num_queries": config.num_queries}
        return cls(image_processor=image_processor, tokenizer=tokenizer, **{**fitting, **given})

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str | os.PathLike[str], **kwargs: Any) -> QwenVLProcessor:
        """The processor of a folder (from `save_pretrained`, or a model's, ours or the original) or of a YAML file with
        a section `processor`. A YAML file is the user's own; what a folder may not set is left out, see
        model_folder.py.

        Args:
            yaml_name_or_path: the folder or the file.
            **kwargs: arguments of the class (`tokenizer`, `max_length`, `chat_format`, `system_message`,
                `image_policy`, ...), used instead of the folder's or the YAML's. Arguments for a hub have no
                effect.

        Raises:
            FileNotFoundError: there is no processor to read.
            ValueError: an argument does not exist; or the folder's vocabulary does not belong to the model of its
                config.json.
        """
        path = Path(kwargs.pop("pretrained_model_name_or_path", None) or yaml_name_or_path)
        given = without_hub(kwargs)
        refuse_unknown("QwenVLProcessor.from_pretrained", given, _ARGUMENTS)
        if path.is_dir():
            return cls._of_folder(path, given)
        section = MindFormerConfig(str(path)).get("processor")
        if not section:
            return cls._of_folder(path.parent, given)
        built = {name: value for name, value in given.items() if name in PARTS}
        section = _changed(section, {name: value for name, value in given.items() if name not in PARTS})
        section = {key: value for key, value in section.items() if key not in built}
        return build_processor(section, default_args=built or None, lib_path=str(path.parent))

    @classmethod
    def _of_folder(cls, folder: Path, given: Mapping[str, Any]) -> QwenVLProcessor:
        found = processor_section(folder)
        has_config = (folder / "config.json").is_file()
        if found is None and not has_config:
            raise FileNotFoundError(
                f"{folder}: found no YAML with a section `processor`, no {PREPROCESSOR} and no config.json"
            )
        tokenizer = given.get("tokenizer") or QwenVLTokenizer.from_pretrained(str(folder))
        config = QwenVLConfig.from_pretrained(str(folder)) if has_config else None
        if found is None:
            others = {name: value for name, value in given.items() if name not in PARTS}
            generation = generation_config_of(folder)
            return cls.for_network(config, tokenizer, given.get("image_processor"), generation, **others)
        if config is not None:
            check_model(tokenizer.eod_id, tokenizer.vocab_file, config.image_start_id, f"the model of {folder}")
        section = _changed(found[1], {**given, "tokenizer": tokenizer})
        if isinstance(section.get("image_processor"), Mapping):
            section["image_processor"] = QwenVLImageProcessor(**section["image_processor"])
        return cls(**section)


_ARGUMENTS = arguments_of(QwenVLProcessor)
PARTS = ("tokenizer", "image_processor")  # objects, which a YAML builds


def _changed(section: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A section `processor` with the arguments `given`, which also take precedence over those of its template."""
    template = section.get("model_transform_template")
    if isinstance(template, Mapping):
        section = {**section, "model_transform_template": {k: v for k, v in template.items() if k not in given}}
    return {**section, **given}


# Settings of the template that only matter in training, so `save_pretrained` does not keep them.
_TRAINING_KEYS = (
    "modal_content_padding_size",
    "max_length",
    "user_role_name",
    "assistant_role_name",
    "user_prompt",
    "assistant_prompt",
    "image_overflow",
)


def _template_settings(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of the template from its YAML section."""
    if section is not None and not isinstance(section, Mapping):
        raise ValueError(
            f"model_transform_template: expected a QwenVLContentTransformTemplate or its YAML section, got {section!r}"
        )
    section = dict(section or {})
    name = section.pop("type", QwenVLContentTransformTemplate.__name__)
    if name != QwenVLContentTransformTemplate.__name__:
        raise ValueError(f"model_transform_template: type {name!r} is not QwenVLContentTransformTemplate")
    return {key: value for key, value in section.items() if key not in ("auto_register", "mode", "tokenizer")}


def _as_batch(queries: Any) -> list[Any]:
    """A list of queries, from a text, a query, or a list of either."""
    if isinstance(queries, str):
        queries = [queries]
    if isinstance(queries, Mapping) or not isinstance(queries, list | tuple) or not len(queries):
        raise ValueError(
            f'expected a query like [{{"image": path}}, {{"text": "..."}}] or a list of such queries, got {queries!r}'
        )
    if isinstance(queries[0], Mapping):
        queries = [queries]
    return [[{"text": query}] if isinstance(query, str) else query for query in queries]
