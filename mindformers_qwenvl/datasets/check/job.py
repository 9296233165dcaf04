"""How training would read a dataset, according to its YAML. Needs neither MindSpore nor MindFormers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mindformers_qwenvl import recipes
from mindformers_qwenvl.pictures.policy import ImagePolicy
from mindformers_qwenvl.recipes.section import Section, SettingsError, read_yaml
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
    top = read_yaml(recipes.find(path))
    if not top.has("train_dataset"):
        raise SettingsError(
            f"{top.where}: there is no section train_dataset, as YAMLs for fine-tuning have it "
            "(`mindformers-qwenvl yaml` lists some)"
        )
    dataset = top.section("train_dataset")
    loader = dataset.section("data_loader", required=True)
    transform = dataset.section("modal_to_text_transform", required=True)
    template = transform.section("model_transform_template", required=True)
    # The template takes no null where it has a default.
    template = Section({**LAYOUT, "modal_content_padding_size": 1, **template.content}, template.where)
    template.choice("type", None, [TEMPLATE])
    tokenizer = dataset.section("tokenizer")
    layout = {key: template.text(key) for key in LAYOUT}
    layout["max_length"] = transform.number("max_length")
    places = [(template, "num_queries"), *((tokenizer, name) for name in SLOT_NAMES)]
    slots = next((section.number(name) for section, name in places if section.has(name)), 256)
    root, confined = _root(loader.text("dataset_dir", ""), template.text("dataset_dir", ""), dataset_dir)
    policy = template.get("image_policy")
    ImagePolicy.of(policy)  # raises if it is not a section
    tags = [f"{f.name}_tag" for f in fields(Tags)]
    model = top.section("model").section("model_config")
    if (queries := model.get("num_queries", slots)) != slots:
        raise SettingsError(
            f"{top.where}: num_queries is {slots} for the data, {queries!r} in model.model_config; "
            "they must be the same"
        )
    full_batches = dataset.get("drop_remainder") is True
    return Settings(
        layout=layout,
        max_images=template.number("modal_content_padding_size"),
        vocab_file=vocab_file or tokenizer.text("vocab_file", ""),
        image_slots=slots,
        tags=Tags(**{tag.removesuffix("_tag"): tokenizer.text(tag) for tag in tags if tag in tokenizer.content}),
        allowed_special=_allowed(tokenizer),
        root=root,
        policy=ImagePolicy.of(policy if confined else {**(policy or {}), "allow_outside": True}),
        exif_rotation=bool(template.get("exif_rotation")),
        keys={key: loader.text(key) for key in KEYS if loader.get(key)},
        # With `split` it counts within a part, and both parts are checked.
        num_samples=loader.number("num_samples") if loader.has("num_samples") and not loader.get("split") else None,
        least_samples=top.section("runner_config").number("batch_size", 1) if full_batches else 1,
        model_vocabulary=model.section("llm_model").section("model_config").get("vocab_size"),
        image_start_id=model.get("image_start_id", PUBLISHED_IMAGE_START if model.get("type") else None),
    )


def _allowed(tokenizer: Section) -> str | tuple[str, ...]:
    value = tokenizer.get("allowed_special", "all")
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return tuple(value)
    if isinstance(value, str):
        return value or "all"
    raise tokenizer.error("allowed_special", "'all', 'image', 'none' or a list of tokens")


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
