"""How training would read a dataset, according to its YAML. Needs neither MindSpore nor MindFormers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mindformers_qwenvl import recipes
from mindformers_qwenvl.checks import whole
from mindformers_qwenvl.pictures.policy import ImagePolicy
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary import SLOT_NAMES
from mindformers_qwenvl.text.vocabulary_file import PUBLISHED_IMAGE_START

__all__ = ["Settings", "read_settings"]

TEMPLATE = "QwenVLContentTransformTemplate"
# Arguments of `training_sample` that the template's section sets, with the template's defaults.
LAYOUT = {
    "system_message": SYSTEM_MESSAGE,
    "user_role_name": "user",
    "assistant_role_name": "assistant",
    "user_prompt": "",
    "assistant_prompt": "",
    "image_overflow": "error",
}
KEYS = ("data_field", "from_keyword", "value_keyword")  # the loader's names of the keys of a record


@dataclass(frozen=True)
class Settings:
    """The part of a training YAML that decides which samples can be used.

    layout: arguments of `training_sample`, max_length among them.
    max_images: pictures a sample may have (`modal_content_padding_size`).
    vocab_file, image_slots, tags, allowed_special: of the tokenizer.
    root, policy, exif_rotation: where pictures are, and which are refused.
    keys: `data_field`, `from_keyword` and `value_keyword` of the loader, if it sets them.
    num_samples: training uses only that many, from the start of the file; None: all.
    least_samples: fewer do not fill a batch, and training would stop.
    model_vocabulary: how many ids the model has, if the YAML says so.
    image_start_id: of the model, if the YAML has one.
    """

    layout: dict[str, Any]
    max_images: int = 1
    vocab_file: str = ""
    image_slots: int = 256
    tags: Tags = field(default_factory=Tags)
    allowed_special: str | tuple[str, ...] = "all"
    root: str | None = None
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    exif_rotation: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    num_samples: int | None = None
    least_samples: int = 1
    model_vocabulary: int | None = None
    image_start_id: int | None = None

    @property
    def max_length(self) -> int:
        """Tokens of a sample."""
        return self.layout["max_length"]


def read_settings(
    path: str | os.PathLike[str], *, dataset_dir: str | None = None, vocab_file: str | None = None
) -> Settings:
    """The settings of the `train_dataset` in a training YAML, which may build on others through `base_config`.

    Args:
        path: the YAML, or the name of one that comes with the package.
        dataset_dir: folder of the pictures, instead of the YAML's.
        vocab_file: vocabulary, instead of the YAML's.

    Raises:
        OSError: the file, or one that it builds on, cannot be read.
        ValueError: it is not a YAML, has no such section, or a value is of the wrong type or out of range; the message
            names file and key.
    """
    path = recipes.find(path)
    document = recipes.read(path)
    dataset = _section(path, document, "train_dataset")
    loader = _section(path, dataset, "data_loader", "train_dataset")
    transform = _section(path, dataset, "modal_to_text_transform", "train_dataset")
    template = _section(path, transform, "model_transform_template", "train_dataset.modal_to_text_transform")
    tokenizer = dataset.get("tokenizer") or {}
    if not isinstance(tokenizer, Mapping):
        raise ValueError(
            f"{path}: train_dataset.tokenizer must be a section like {{vocab_file: ...}}, got {tokenizer!r}"
        )
    if template.get("type") != TEMPLATE:
        raise ValueError(f"{path}: model_transform_template is of type {template.get('type')!r}, not {TEMPLATE}")
    layout = {key: _text(path, key, template.get(key, default)) for key, default in LAYOUT.items()}
    layout["max_length"] = whole(f"{path}: modal_to_text_transform.max_length", transform.get("max_length"))
    given = [template.get("num_queries"), *(tokenizer.get(name) for name in SLOT_NAMES)]
    slots = next((value for value in given if value is not None), 256)
    folders = (_text(path, "dataset_dir", part.get("dataset_dir") or "") for part in (loader, template))
    root, confined = _root(*folders, dataset_dir)
    policy = template.get("image_policy")
    ImagePolicy.of(policy)  # raises if it is not a section
    tags = [f"{f.name}_tag" for f in fields(Tags)]
    spelled = {tag.removesuffix("_tag"): _text(path, tag, tokenizer[tag]) for tag in tags if tag in tokenizer}
    model = _model(document)
    _same_queries(path, slots, model.get("num_queries"))
    return Settings(
        layout=layout,
        max_images=whole(f"{path}: modal_content_padding_size", template.get("modal_content_padding_size", 1)),
        vocab_file=vocab_file or _text(path, "vocab_file", tokenizer.get("vocab_file") or ""),
        image_slots=whole(f"{path}: num_queries", slots),
        tags=Tags(**spelled),
        allowed_special=_allowed(path, tokenizer.get("allowed_special", "all")),
        root=root,
        policy=ImagePolicy.of(policy if confined else {**(policy or {}), "allow_outside": True}),
        exif_rotation=bool(template.get("exif_rotation", False)),
        keys={key: _text(path, key, loader[key]) for key in KEYS if loader.get(key)},
        num_samples=None
        if loader.get("split")  # then it counts within a part, and both parts are checked
        else whole(f"{path}: data_loader.num_samples", loader.get("num_samples"), optional=True),
        least_samples=_least(path, document, dataset),
        model_vocabulary=_of(_of(model, "llm_model"), "model_config").get("vocab_size"),
        image_start_id=model.get("image_start_id", PUBLISHED_IMAGE_START if model.get("type") else None),
    )


def _of(parent: Any, key: str) -> Mapping[str, Any]:
    section = parent.get(key) if isinstance(parent, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _model(document: Any) -> Mapping[str, Any]:
    return _of(_of(document, "model"), "model_config")


def _same_queries(path: Path, slots: Any, queries: Any) -> None:
    if queries is not None and slots != queries:
        raise ValueError(
            f"{path}: num_queries is {slots!r} for the data, {queries!r} in model.model_config; they must be the same"
        )


def _least(path: Path, document: Any, dataset: Mapping[str, Any]) -> int:
    batch_size = _of(document, "runner_config").get("batch_size")
    if batch_size is None or dataset.get("drop_remainder") is not True:
        return 1
    return whole(f"{path}: runner_config.batch_size", batch_size)


def _allowed(path: Path, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return tuple(value)
    if value is None or isinstance(value, str):
        return value or "all"
    raise ValueError(f"{path}: allowed_special must be 'all', 'image', 'none' or a list of tokens, got {value!r}")


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}: {name} must be a string, got {value!r}; put it in quotes or leave the key out")
    return value


def _root(of_loader: str | None, of_template: str | None, given: str | None) -> tuple[str | None, bool]:
    """(folder of the pictures or None, whether they must be inside), as `QwenVLDataLoader` and the template decide."""
    root = given or of_loader or of_template or None
    if root is None:
        return None, True
    if Path(root).is_file() and root != of_template:  # --train_dataset_dir data.json
        return str(Path(root).parent), False
    if not Path(root).is_dir():
        raise FileNotFoundError(f"dataset_dir {root}: no such folder")
    return root, True


def _section(path: Path, parent: Any, key: str, place: str = "") -> Mapping[str, Any]:
    section = parent.get(key) if isinstance(parent, Mapping) else None
    if not isinstance(section, Mapping):
        name = f"{place}.{key}" if place else key
        raise ValueError(
            f"{path}: there is no section {name}; YAMLs for fine-tuning have one (see `mindformers-qwenvl yaml`)"
        )
    return section
