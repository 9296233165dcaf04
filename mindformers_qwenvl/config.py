"""Configuration of Qwen-VL: the YAML keys of the old in-tree version, and the original config.json."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.models.utils import convert_mstype
from mindformers.modules.transformer import TransformerOpParallelConfig
from mindformers.tools.register.config import DictConfig
from mindformers.tools.utils import calculate_pipeline_stage

__all__ = ["QwenConfig", "QwenVLConfig", "QwenVLVisionConfig"]

RESAMPLER_HEAD_DIM = 128  # the original divides output_dim into heads of 128
VIT_POSITIONS = 256  # rows of the learnt position table, whatever the image size: it was trained at 224 pixels
VIT_MLP_RATIO = 4.9231
# The special ids stand behind the ranks in a fixed order: end of text, then <|im_start|>, <|im_end|>, ..., <img>.
IMAGE_START_BEHIND_END_OF_TEXT = 214
# Settings of the language model that may stand in the outer configuration too, where the host looks for them.
LANGUAGE_SETTINGS = (
    *("batch_size", "seq_length", "use_past", "is_dynamic", "block_size", "num_blocks"),
    *("eos_token_id", "repetition_penalty", "max_decode_length", "top_k", "top_p", "do_sample"),
)


class QwenVLVisionConfig(PretrainedConfig):
    """The vision tower: ViT-bigG with a cross-attention resampler on top (Qwen-VL paper, section 2.1)."""

    model_type = "qwenvl_vision"

    def __init__(
        self,
        hidden_size: int = 1664,  # width of the ViT
        intermediate_size: int | None = None,  # width of its MLP; None: int(hidden_size * 4.9231), as the original
        num_hidden_layers: int = 48,
        num_attention_heads: int = 16,
        image_size: int = 448,  # pixels a side, of square images
        patch_size: int = 14,  # pixels a side
        output_dim: int = 4096,  # of the resampler: the hidden size of the language model
        num_queries: int = 256,  # tokens one image becomes
        layer_norm_eps: float = 1e-6,
        dropout: float = 0.0,  # the original has none
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_flash_attention: bool = False,
        compute_dtype: str = "float16",
        param_init_type: str = "float16",
        softmax_compute_type: str = "float32",
        layernorm_compute_type: str = "float32",
        gelu_dtype: str = "float32",
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        offset: int | list = 0,  # layers more (or fewer) than the mean on each pipeline stage
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = int(hidden_size * VIT_MLP_RATIO) if intermediate_size is None else intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.output_dim = output_dim
        self.num_queries = num_queries
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.use_flash_attention = use_flash_attention
        self.compute_dtype = convert_mstype(compute_dtype)
        self.param_init_type = convert_mstype(param_init_type)
        self.softmax_compute_type = convert_mstype(softmax_compute_type)
        self.layernorm_compute_type = convert_mstype(layernorm_compute_type)
        self.gelu_dtype = convert_mstype(gelu_dtype)
        self.parallel_config = _parallel_config(parallel_config)
        self.offset = offset
        self.start_stage = 0
        self.stage_num = 0
        if dropout or attention_dropout:
            raise ValueError(
                f"QwenVLVisionConfig: dropout={dropout}, attention_dropout={attention_dropout}; Qwen-VL has no dropout "
                "in its vision tower, both must be 0"
            )
        _require_divisible("hidden_size", hidden_size, "num_attention_heads", num_attention_heads)
        _require_divisible("image_size", image_size, "patch_size", patch_size)
        _require_divisible("output_dim", output_dim, "the head size of the resampler,", RESAMPLER_HEAD_DIM)
        _require_square("num_queries", num_queries)
        _require_split(
            self.parallel_config,
            num_attention_heads=num_attention_heads,
            hidden_size=hidden_size,
            intermediate_size=self.intermediate_size,
            output_dim=output_dim,
            resampler_heads=output_dim // RESAMPLER_HEAD_DIM,
        )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class QwenConfig(PretrainedConfig):
    """The language model, Qwen-7B (original file: configuration_qwen.py)."""

    model_type = "qwen"

    def __init__(
        self,
        batch_size: int = 1,
        seq_length: int = 2048,  # longest sequence this network is built for
        train_seq_length: int = 2048,  # length the weights were trained on: dynamic NTK and logn begin beyond it
        hidden_size: int = 4096,
        num_layers: int = 32,
        num_heads: int = 32,
        kv_channels: int = 128,  # size of a head
        intermediate_size: int = 11008,  # width of one of the two MLP branches: half of the original config.json's
        vocab_size: int = 151936,
        rms_norm_eps: float = 1e-6,
        rotary_emb_base: float = 10000.0,
        rotary_pct: float = 1.0,
        use_dynamic_ntk: bool = True,  # in prediction
        use_logn_attn: bool = True,  # in prediction
        emb_dropout_prob: float = 0.0,
        eos_token_id: int = 151643,
        pad_token_id: int = 151643,
        bos_token_id: int | None = None,
        ignore_token_id: int = -100,
        initializer_range: float = 0.02,
        compute_dtype: str = "float16",
        param_init_type: str = "float16",
        softmax_compute_type: str = "float32",
        layernorm_compute_type: str = "float32",
        rotary_dtype: str = "float32",
        use_flash_attention: bool = False,
        use_past: bool = False,
        is_dynamic: bool = False,
        block_size: int = 16,
        num_blocks: int = 512,
        offset: int | list = 0,
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        repetition_penalty: float = 1.0,
        max_decode_length: int = 1024,
        top_k: int = 0,
        top_p: float = 0.8,
        do_sample: bool = False,
        **kwargs,
    ):
        # The original names of two keys; both spellings occur in YAMLs.
        num_layers = kwargs.pop("num_hidden_layers", num_layers)
        num_heads = kwargs.pop("num_attention_heads", num_heads)
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, bos_token_id=bos_token_id, **kwargs)
        self.batch_size = batch_size
        self.seq_length = seq_length
        self.train_seq_length = train_seq_length
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.kv_channels = kv_channels
        self.intermediate_size = intermediate_size
        self.vocab_size = vocab_size
        self.rms_norm_eps = rms_norm_eps
        self.rotary_emb_base = rotary_emb_base
        self.rotary_pct = rotary_pct
        self.use_dynamic_ntk = use_dynamic_ntk
        self.use_logn_attn = use_logn_attn
        self.ignore_token_id = ignore_token_id
        self.initializer_range = initializer_range
        self.compute_dtype = convert_mstype(compute_dtype)
        self.param_init_type = convert_mstype(param_init_type)
        self.softmax_compute_type = convert_mstype(softmax_compute_type)
        self.layernorm_compute_type = convert_mstype(layernorm_compute_type)
        self.rotary_dtype = convert_mstype(rotary_dtype)
        self.use_flash_attention = use_flash_attention
        self.use_past = use_past
        self.is_dynamic = is_dynamic
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.offset = offset
        self.parallel_config = _parallel_config(parallel_config)
        self.repetition_penalty = repetition_penalty
        self.max_decode_length = max_decode_length
        self.top_k = top_k
        self.top_p = top_p
        self.do_sample = do_sample
        self.start_stage = 0
        self.stage_num = 0
        if emb_dropout_prob:
            raise ValueError(f"QwenConfig: emb_dropout_prob={emb_dropout_prob}; Qwen-VL is trained without, use 0")
        if rotary_pct != 1.0:
            raise ValueError(f"QwenConfig: rotary_pct={rotary_pct}; Qwen-VL rotates whole heads, use 1.0")
        if num_heads * kv_channels != hidden_size:
            raise ValueError(
                f"QwenConfig: num_heads={num_heads} heads of kv_channels={kv_channels} make "
                f"{num_heads * kv_channels}, which must equal hidden_size={hidden_size}"
            )
        _require_split(
            self.parallel_config,
            num_heads=num_heads,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
        )
        if not getattr(self.parallel_config, "vocab_emb_dp", True):
            _require_split(self.parallel_config, vocab_size=vocab_size)


class QwenVLConfig(PretrainedConfig):
    """Qwen-VL: vision tower and language model.

    Args:
        vision_model: ``{arch, model_config}`` as in the YAML, or a `QwenVLVisionConfig`. None: the published sizes.
        llm_model: ``{arch, model_config}`` as in the YAML, or a `QwenConfig`. None: the published sizes.
        num_queries: tokens one image becomes.
        image_start_id: id of ``<img>``; ``</img>`` and the image pad follow it.
        freeze_vision: the ViT is not trained; the resampler (attn_pool) still is, unless `freeze_resampler` is set.
        freeze_resampler: the resampler is not trained.
        freeze_llm: the language model is not trained.
        compute_dtype, param_init_type, softmax_compute_type: passed on to both parts when given here.
        use_past, seq_length, do_sample, ...: see LANGUAGE_SETTINGS; passed on to the language model when given here.
        layers_per_stage: layers of vision tower and language model together on each pipeline stage.

    Raises:
        ValueError: sizes of the two parts do not fit together, or a size cannot be divided as it must be.
    """

    model_type = "qwenvl"
    _support_list: ClassVar[list[str]] = []

    def __init__(
        self,
        vision_model: dict | QwenVLVisionConfig | None = None,
        llm_model: dict | QwenConfig | None = None,
        num_queries: int = 256,
        proj_output_dim: int | None = None,
        image_start_id: int = 151857,
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
        language = {name: kwargs.pop(name, named.get(name)) for name in LANGUAGE_SETTINGS}
        super().__init__(checkpoint_name_or_path=checkpoint_name_or_path, **kwargs)
        self.parallel_config = _parallel_config(parallel_config)
        both = {
            "parallel_config": self.parallel_config,
            "compute_dtype": compute_dtype,
            "softmax_compute_type": softmax_compute_type,
            "param_init_type": param_init_type,
        }
        llm = _part(llm_model, QwenConfig, {**both, **language})
        output_dim = proj_output_dim or llm.hidden_size
        vision = _part(vision_model, QwenVLVisionConfig, {**both, "num_queries": num_queries, "output_dim": output_dim})
        if vision.output_dim != llm.hidden_size:
            raise ValueError(
                f"QwenVLConfig: the resampler gives vectors of output_dim={vision.output_dim}, the language model "
                f"takes hidden_size={llm.hidden_size}; they must be equal"
            )
        self.vision_model = DictConfig(arch=DictConfig(type="QwenVLVisionModel"), model_config=vision)
        self.llm_model = DictConfig(arch=DictConfig(type="QwenForCausalLM"), model_config=llm)
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

    @property
    def vision(self) -> QwenVLVisionConfig:
        return self.vision_model["model_config"]

    @property
    def llm(self) -> QwenConfig:
        return self.llm_model["model_config"]

    @property
    def turn_ids(self) -> tuple[int, int]:
        """<|im_end|> and <|im_start|>, which end an answer in ChatML."""
        end_of_text = self.image_start_id - IMAGE_START_BEHIND_END_OF_TEXT
        return end_of_text + 2, end_of_text + 1

    def _spread_over_stages(self, layers_per_stage: list[int]) -> None:
        stages = self.parallel_config.pipeline_stage
        wanted = self.vision.num_hidden_layers + self.llm.num_layers
        if len(layers_per_stage) != stages or sum(layers_per_stage) != wanted:
            raise ValueError(
                f"QwenVLConfig: layers_per_stage={layers_per_stage} must hold one number for each of the {stages} "
                f"pipeline stages and sum up to {wanted} layers (vision tower and language model)"
            )
        layers = [self.vision.num_hidden_layers, self.llm.num_layers]
        placed = calculate_pipeline_stage(list(layers_per_stage), layers)
        for part, place in zip((self.vision, self.llm), placed, strict=True):
            part.start_stage = place["start_stage"]
            part.stage_num = place["stage_num"]
            part.offset = place["offset"]

    def to_dict(self) -> dict[str, Any]:
        """As the host's, with both parts as plain dictionaries that `QwenVLConfig(**...)` takes back."""
        plain = copy.copy(self)
        plain.vision_model = plain.llm_model = None
        output = PretrainedConfig.to_dict(plain)
        output["vision_model"] = _part_to_dict(self.vision_model)
        output["llm_model"] = _part_to_dict(self.llm_model)
        return output

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Where `AutoConfig.from_pretrained(directory, **kwargs)` comes in with config.json, the original's or ours.

        As the host's; but settings in kwargs (use_past, seq_length, compute_dtype, ...) reach the part they are for.
        The host sets them on the outer configuration when it is made, where neither part would see them.
        """
        settings = from_original(config_dict) if "visual" in config_dict else dict(config_dict)
        names = {*inspect.signature(cls.__init__).parameters, *LANGUAGE_SETTINGS} - {"self", "kwargs"}
        settings |= {name: kwargs.pop(name) for name in names & kwargs.keys()}
        return super().from_dict(settings, **kwargs)

    @classmethod
    def from_pretrained(cls, yaml_name_or_path: str, **kwargs) -> QwenVLConfig:
        """Read the configuration from an original HuggingFace directory (config.json), or from a YAML as the host does.

        Args:
            yaml_name_or_path: a directory with config.json, or with a YAML of ours; a config.json; a YAML file.
            **kwargs: keys that replace those of the file.

        Raises:
            FileNotFoundError: there is no such file or directory, or the directory holds no configuration.
            ValueError: config.json is not one of Qwen-VL.
        """
        path = Path(kwargs.pop("pretrained_model_name_or_path", None) or yaml_name_or_path)
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file or directory; a directory with config.json or a YAML is expected"
            )
        if path.is_dir():
            yamls = sorted(path.glob("*.yaml"))
            if not (path / "config.json").exists() and not yamls:
                raise FileNotFoundError(f"{path}: neither config.json nor a .yaml in this directory")
            path = path / "config.json" if (path / "config.json").exists() else yamls[0]
        if path.suffix != ".json":
            return super().from_pretrained(str(path), **kwargs)
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)  # where it was when it was written
        if "visual" in settings:
            settings = from_original(settings)
        elif settings.get("model_type") != cls.model_type:
            raise ValueError(f"{path}: no key `visual`, so this is not the config.json of a Qwen-VL model")
        return cls(**{**settings, "name_or_path": str(path.parent), **kwargs})


def from_original(original: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `QwenVLConfig` from the original's config.json (original file: configuration_qwen.py)."""
    visual = original["visual"]
    dtype = original.get("torch_dtype") or "float32"
    queries = visual.get("n_queries", 256)
    end_of_text = visual["image_start_id"] - IMAGE_START_BEHIND_END_OF_TEXT
    vision = QwenVLVisionConfig(
        hidden_size=visual["width"],
        intermediate_size=int(visual["width"] * visual["mlp_ratio"]),
        num_hidden_layers=visual["layers"],
        num_attention_heads=visual["heads"],
        image_size=visual["image_size"],
        patch_size=visual["patch_size"],
        output_dim=visual["output_dim"],
        num_queries=queries,
        compute_dtype=dtype,
        param_init_type=dtype,
    )
    llm = QwenConfig(
        seq_length=original["max_position_embeddings"],
        train_seq_length=original["seq_length"],
        hidden_size=original["hidden_size"],
        num_layers=original["num_hidden_layers"],
        num_heads=original["num_attention_heads"],
        kv_channels=original["kv_channels"],
        intermediate_size=original["intermediate_size"] // 2,
        vocab_size=original["vocab_size"],
        rms_norm_eps=original["layer_norm_epsilon"],
        rotary_emb_base=original["rotary_emb_base"],
        rotary_pct=original["rotary_pct"],
        use_dynamic_ntk=original["use_dynamic_ntk"],
        use_logn_attn=original["use_logn_attn"],
        initializer_range=original["initializer_range"],
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        compute_dtype=dtype,
        param_init_type=dtype,
    )
    return {
        "vision_model": vision,
        "llm_model": llm,
        "num_queries": queries,
        "image_start_id": visual["image_start_id"],
    }


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
    settings.pop("parallel_config", None)  # it stands once, in the outer configuration
    return {"arch": dict(part["arch"]), "model_config": {"type": type(part["model_config"]).__name__, **settings}}


def _parallel_config(given: Any) -> TransformerOpParallelConfig:
    return TransformerOpParallelConfig(**given) if isinstance(given, dict) else given


def _require_divisible(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name}={value} must be divisible by {by_name}={by}")


def _require_split(parallel: Any, **sizes: int) -> None:
    """Every size can be cut into equal parts for the model-parallel cards."""
    cards = getattr(parallel, "model_parallel", 1)
    wrong = [f"{name}={size}" for name, size in sizes.items() if size % cards]
    if wrong:
        raise ValueError(
            f"parallel_config.model_parallel={cards} cards cannot share {', '.join(wrong)} evenly; choose a "
            f"model_parallel that divides {'it' if len(wrong) == 1 else 'each of them'}"
        )


def _require_square(name: str, value: int) -> None:
    if round(value**0.5) ** 2 != value:
        raise ValueError(f"{name}={value} must be a square number: the queries stand on a square grid")
