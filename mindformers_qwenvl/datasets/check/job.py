"""How training would read a dataset, from its YAML. Needs neither MindSpore nor MindFormers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mindformers_qwenvl.pictures.policy import ImagePolicy
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary import SLOT_NAMES

__all__ = ["Settings", "read_settings"]

TEMPLATE = "QwenVLContentTransformTemplate"
# What `training_sample` is told by the template's section, with the template's defaults.
LAYOUT = {
    "system_message": SYSTEM_MESSAGE,
    "user_role_name": "user",
    "assistant_role_name": "assistant",
    "user_prompt": "",
    "assistant_prompt": "",
    "image_overflow": "error",
}
KEYS = ("data_field", "from_keyword", "value_keyword")  # of a record, in the loader's section


@dataclass(frozen=True)
class Settings:
    """What of a training YAML has a say in which samples can be used.

    layout: arguments of `training_sample`, max_length among them.
    max_images: pictures a sample may have (`modal_content_padding_size`).
    vocab_file, image_slots, tags, allowed_special: of the tokenizer.
    root, policy, exif_rotation: where pictures are, and what is refused.
    keys: `data_field`, `from_keyword` and `value_keyword` of the loader, where it says so.
    num_samples: only the first so many are trained; None: all.
    least_samples: fewer make no batch, and training would stop.
    model_vocabulary: how many ids the model knows, where the YAML says so.
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

    @property
    def max_length(self) -> int:
        """Tokens of a sample."""
        return self.layout["max_length"]


def read_settings(
    path: str | os.PathLike[str], *, dataset_dir: str | None = None, vocab_file: str | None = None
) -> Settings:
    """The settings of the `train_dataset` in a training YAML.

    Args:
        path: the YAML.
        dataset_dir: folder of the pictures, in the place of the YAML's.
        vocab_file: vocabulary, in the place of the YAML's.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, has no such section, or a value makes no sense.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
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
    layout["max_length"] = _whole(path, "modal_to_text_transform.max_length", transform.get("max_length"))
    given = [template.get("num_queries"), *(tokenizer.get(name) for name in SLOT_NAMES)]
    slots = next((value for value in given if value is not None), 256)
    folders = (_text(path, "dataset_dir", part.get("dataset_dir") or "") for part in (loader, template))
    root, confined = _root(*folders, dataset_dir)
    policy = template.get("image_policy")
    ImagePolicy.of(policy)  # raises if it is no section
    tags = [f"{f.name}_tag" for f in fields(Tags)]
    spelled = {tag.removesuffix("_tag"): _text(path, tag, tokenizer[tag]) for tag in tags if tag in tokenizer}
    count = loader.get("num_samples")
    model = _model(document)
    _same_queries(path, slots, model.get("num_queries"))
    return Settings(
        layout=layout,
        max_images=_whole(path, "modal_content_padding_size", template.get("modal_content_padding_size", 1)),
        vocab_file=vocab_file or _text(path, "vocab_file", tokenizer.get("vocab_file") or ""),
        image_slots=_whole(path, "num_queries", slots),
        tags=Tags(**spelled),
        allowed_special=_allowed(path, tokenizer.get("allowed_special", "all")),
        root=root,
        policy=ImagePolicy.of(policy if confined else {**(policy or {}), "allow_outside": True}),
        exif_rotation=bool(template.get("exif_rotation", False)),
        keys={key: _text(path, key, loader[key]) for key in KEYS if loader.get(key)},
        num_samples=None if count is None else _whole(path, "data_loader.num_samples", count),
        least_samples=_least(path, document, dataset),
        model_vocabulary=_of(_of(model, "llm_model"), "model_config").get("vocab_size"),
    )


def _of(parent: Any, key: str) -> Mapping[str, Any]:
    section = parent.get(key) if isinstance(parent, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _model(document: Any) -> Mapping[str, Any]:
    return _of(_of(document, "model"), "model_config")


def _same_queries(path: Path, slots: Any, queries: Any) -> None:
    if queries is not None and slots != queries:
        raise ValueError(
            f"{path}: num_queries of the data is {slots!r}, of model.model_config {queries!r}; they must be the same"
        )


def _least(path: Path, document: Any, dataset: Mapping[str, Any]) -> int:
    rows = _of(document, "runner_config").get("batch_size")
    if rows is None or dataset.get("drop_remainder") is not True:
        return 1
    return _whole(path, "runner_config.batch_size", rows)


def _allowed(path: Path, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return tuple(value)
    if value is None or isinstance(value, str):
        return value or "all"
    raise ValueError(f"{path}: allowed_special is 'all', 'image', 'none' or a list of tokens, got {value!r}")


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}: {name} must be a text, got {value!r}; put it in quotes, or leave the key out")
    return value


def _root(of_loader: str | None, of_template: str | None, given: str | None) -> tuple[str | None, bool]:
    """(folder of the pictures or None, whether they have to be inside), as `QwenVLDataLoader` and the template do."""
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
        raise ValueError(f"{path}: no section {name}; a YAML for fine-tuning has one (`mindformers-qwenvl yaml`)")
    return section


def _whole(path: Path, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{path}: {name} must be a whole number above 0, got {value!r}")
    return value
