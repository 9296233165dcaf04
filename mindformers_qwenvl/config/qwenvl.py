"""Configuration of the whole network: both parts, and reading it from files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.modules.transformer import TransformerOpParallelConfig
from mindformers.tools.register.config import DictConfig
from mindformers.tools.utils import calculate_pipeline_stage

from mindformers_qwenvl.checks import arguments_of
from mindformers_qwenvl.config.folder import followed_settings
from mindformers_qwenvl.config.keys import HUB, OUTER, refuse_unknown_keys, without_hub
from mindformers_qwenvl.config.language import QwenConfig
from mindformers_qwenvl.config.original import is_original, our_settings, read_object
from mindformers_qwenvl.config.parallel import as_parallel_config
from mindformers_qwenvl.config.sizes import (
    LANGUAGE_MODEL,
    VisionSettings,
    check_layers_per_stage,
    check_order,
    check_parts,
    stages_by_offset,
)
from mindformers_qwenvl.config.vision import QwenVLVisionConfig
from mindformers_qwenvl.text.vocabulary_file import IMAGE_START_OFFSET, PUBLISHED_IMAGE_START

__all__ = ["QwenVLConfig"]


class QwenVLConfig(PretrainedConfig):
    """Qwen-VL: vision tower and language model.

    Args:
        vision_model: ``{arch, model_config}`` as in the YAML, or a `QwenVLVisionConfig`. None: the published sizes.
        llm_model: ``{arch, model_config}`` as in the YAML, or a `QwenConfig`. None: the published sizes.
        num_queries: number of tokens for each image.
        image_start_id: id of ``<img>``; ``</img>`` and the image pad follow it.
        freeze_vision: the ViT is not trained. The resampler (attn_pool) still is, unless `freeze_resampler` is set.
        freeze_resampler: the resampler is not trained.
        freeze_llm: the language model is not trained.
        compute_dtype, param_init_type, softmax_compute_type: passed on to both parts when given here.
        use_past, seq_length, do_sample, ... (`sizes.LANGUAGE_MODEL`): passed on to the language model when given here.
        layers_per_stage: layers of vision tower and language model together on each pipeline stage. None: each part is
            placed by its `offset`, which must place the whole vision tower before the language model.

    Raises:
        ValueError: sizes of the two parts do not fit together, a size is not divisible as it must be, or the
            layers cannot be placed on the pipeline stages.
    """

    model_type = "qwenvl"
    _support_list: ClassVar[list[str]] = []

    def __init__(
        self,
        vision_model: dict | QwenVLVisionConfig | None = None,
        llm_model: dict | QwenConfig | None = None,
        num_queries: int = VisionSettings.num_queries,
        proj_output_dim: int | None = None,
        image_start_id: int = PUBLISHED_IMAGE_START,
        image_pad_id: int | None = None,
        freeze_vision: bool = False,
        freeze_resampler: bool = False,
        freeze_llm: bool = False,
        checkpoint_name_or_path: str | None = None,
        use_past: bool | None = None,
        is_dynamic: bool | None = None,
        block_size: int | None = None,
        num_blocks: int | None = None,
        compute_dtype: str | None = None,
        softmax_compute_type: str | None = None,
        param_init_type: str | None = None,
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        layers_per_stage: list[int] | None = None,
        **kwargs,
    ):
        named = {"use_past": use_past, "is_dynamic": is_dynamic, "block_size": block_size, "num_blocks": num_blocks}
        language = {name: kwargs.pop(name, named.get(name)) for name in LANGUAGE_MODEL}
        refuse_unknown_keys("QwenVLConfig", kwargs, (*_ARGUMENTS, *OUTER))
        kwargs.setdefault("pet_config", None)  # in MindFormers 1.7 and 1.8 it is an attribute only if it is given
        super().__init__(checkpoint_name_or_path=checkpoint_name_or_path, **kwargs)
        self.parallel_config = as_parallel_config(parallel_config)
        both = {
            "parallel_config": self.parallel_config,
            "compute_dtype": compute_dtype,
            "softmax_compute_type": softmax_compute_type,
            "param_init_type": param_init_type,
        }
        llm = _part(llm_model, QwenConfig, {**both, **language})
        output_dim = proj_output_dim or llm.hidden_size
        vision = _part(vision_model, QwenVLVisionConfig, {**both, "num_queries": num_queries, "output_dim": output_dim})
        try:
            check_parts(vision, llm)
        except ValueError as error:
            raise ValueError(f"QwenVLConfig: {error}") from None
        self.vision_model = DictConfig(arch=DictConfig(type="QwenVLVisionModel"), model_config=vision)
        self.llm_model = DictConfig(arch=DictConfig(type="QwenForCausalLM"), model_config=llm)
        if self.pet_config:
            self.make_room(self.pet_config)
        self.num_queries = num_queries
        self.proj_output_dim = vision.output_dim
        self.image_start_id = image_start_id
        self.image_pad_id = image_start_id + 2 if image_pad_id is None else image_pad_id
        self.freeze_vision = freeze_vision
        self.freeze_resampler = freeze_resampler
        self.freeze_llm = freeze_llm
        # The host reads these from the outer configuration: generation, caches, throughput and checks.
        for name in (
            "seq_length", "vocab_size", "hidden_size", "num_layers", "num_heads", "pad_token_id", "eos_token_id",
            "ignore_token_id", "use_past", "is_dynamic", "block_size", "num_blocks", "batch_size",
            "repetition_penalty", "max_decode_length", "top_k", "top_p", "do_sample", "compute_dtype",
        ):  # fmt: skip
            setattr(self, name, getattr(llm, name))
        self.layers_per_stage = layers_per_stage
        if layers_per_stage is not None:
            self._spread_over_stages(layers_per_stage)
        elif self.parallel_config.pipeline_stage > 1:
            self._check_offsets(self.parallel_config.pipeline_stage)

    def make_room(self, pet_config: dict[str, Any]) -> None:
        """Build networks of this configuration with adapters from now on; for the keys see adapters/settings.py."""
        self.pet_config = self.vision.lora = self.llm.lora = DictConfig(**pet_config)

    @property
    def vision(self) -> QwenVLVisionConfig:
        return self.vision_model["model_config"]

    @property
    def llm(self) -> QwenConfig:
        return self.llm_model["model_config"]

    @property
    def turn_ids(self) -> tuple[int, int]:
        """<|im_end|> and <|im_start|>, which end an answer in ChatML."""
        end_of_text = self.image_start_id - IMAGE_START_OFFSET
        return end_of_text + 2, end_of_text + 1

    def _spread_over_stages(self, layers_per_stage: list[int]) -> None:
        stages = self.parallel_config.pipeline_stage
        wanted = self.vision.num_hidden_layers + self.llm.num_layers
        try:
            check_layers_per_stage(layers_per_stage, stages, wanted)
        except ValueError as error:
            raise ValueError(f"QwenVLConfig: {error}") from None
        layers = [self.vision.num_hidden_layers, self.llm.num_layers]
        placed = calculate_pipeline_stage(list(layers_per_stage), layers)
        for part, place in zip((self.vision, self.llm), placed, strict=True):
            part.start_stage = place["start_stage"]
            part.stage_num = place["stage_num"]
            part.offset = place["offset"]

    def _check_offsets(self, stages: int) -> None:
        parts = [(self.vision.num_hidden_layers, self.vision.offset), (self.llm.num_layers, self.llm.offset)]
        if any(isinstance(offset, list) and any(isinstance(more, list) for more in offset) for _, offset in parts):
            return  # interleaved stages, which the host checks
        check_order(*(stages_by_offset(layers, offset, stages) for layers, offset in parts), stages)

    def to_dict(self) -> dict[str, Any]:
        """As the host's, with both parts as plain dictionaries that `QwenVLConfig(**...)` accepts again."""
        plain = copy.copy(self)
        plain.vision_model = plain.llm_model = None
        output = PretrainedConfig.to_dict(plain)
        output.pop("adapter", None)  # directories of this machine; what was loaded from them is among the weights
        output["vision_model"] = _part_to_dict(self.vision_model)
        output["llm_model"] = _part_to_dict(self.llm_model)
        return output

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """`AutoConfig.from_pretrained(directory, **kwargs)` calls this with a config.json, the original's or ours.

        As the host's, but settings in kwargs (use_past, seq_length, compute_dtype, ...) reach the part they are for.
        The host would set them on the finished outer configuration, where neither part sees them.
        """
        original = is_original(config_dict)
        settings = our_settings(config_dict) if original else followed_settings("config.json", config_dict)
        settings |= {name: kwargs.pop(name) for name in kwargs.keys() & set(_ARGUMENTS)}
        if not kwargs.get("return_unused_kwargs"):
            refuse_unknown_keys("QwenVLConfig", kwargs.keys() - set(HUB), _ARGUMENTS)
        return super().from_dict(settings, **kwargs)

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str, **kwargs) -> QwenVLConfig:
        """Read the configuration from an original HuggingFace directory (config.json), or from a YAML as the host does.

        Args:
            yaml_name_or_path: a directory with config.json, or with a YAML of ours; a config.json; a YAML file.
            **kwargs: keys that replace those of the file.

        Raises:
            FileNotFoundError: the path does not exist, or the directory holds no configuration.
            ValueError: config.json is not one of Qwen-VL; or a key does not exist.
        """
        path = Path(kwargs.pop("pretrained_model_name_or_path", None) or yaml_name_or_path)
        kwargs = without_hub(kwargs)
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file or directory; a directory with config.json or a YAML is expected"
            )
        if path.is_dir():
            yamls = sorted(path.glob("*.yaml"))
            if not (path / "config.json").exists() and not yamls:
                raise FileNotFoundError(f"{path}: this directory has neither a config.json nor a .yaml")
            path = path / "config.json" if (path / "config.json").exists() else yamls[0]
        if path.suffix != ".json":
            return super().from_pretrained(str(path), **kwargs)
        settings = read_object(path)
        settings.pop("_name_or_path", None)  # its folder when it was written
        if is_original(settings):
            settings = our_settings(settings)
        elif settings.get("model_type") != cls.model_type:
            raise ValueError(
                f"{path} is not the config.json of a Qwen-VL: expected the original's, with a section `visual`, or one "
                f"of ours, with model_type {cls.model_type}"
            )
        settings = followed_settings(path, settings)
        return cls(**{**settings, "name_or_path": str(path.parent), **kwargs})


_ARGUMENTS = (*arguments_of(QwenVLConfig), *LANGUAGE_MODEL)


def _part(given: Any, config_class: type, overrides: dict[str, Any]) -> Any:
    """Build one part's configuration from a YAML section `{arch, model_config: {type, ...}}` or a ready object."""
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if isinstance(given, dict) and not isinstance(given.get("model_config", given), dict):
        given = given["model_config"]
    if isinstance(given, PretrainedConfig):
        # Build anew, so that the checks see the final sizes and the caller's object stays as it is.
        settings = {name: value for name, value in vars(given).items() if not name.startswith("_")}
        given = {name: value for name, value in settings.items() if name not in ("start_stage", "stage_num")}
    given = dict((given or {}).get("model_config", given or {}))
    for word in ("type", "auto_register", "model_type"):
        given.pop(word, None)
    return config_class(**{**given, **overrides})


def _part_to_dict(part: DictConfig) -> dict[str, Any]:
    settings = part["model_config"].to_dict()
    settings.pop("parallel_config", None)  # it is kept once, in the outer configuration
    return {"arch": dict(part["arch"]), "model_config": {"type": type(part["model_config"]).__name__, **settings}}
