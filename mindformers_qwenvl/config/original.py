"""The original's directory and its config.json: recognised, read, and translated to our keys. Plain Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from mindformers_qwenvl.config.sizes import VisionSettings
from mindformers_qwenvl.files import read_json
from mindformers_qwenvl.text.vocabulary_file import IMAGE_START_OFFSET

__all__ = [
    "ADAPTER",
    "is_original",
    "is_original_directory",
    "original_settings",
    "original_sizes",
    "our_settings",
    "read_object",
    "read_original",
]

ADAPTER = "adapter_config.json"  # of an adapter in peft's format


def is_original(settings: Any) -> bool:
    """Whether `settings`, the content of a config.json, are those of an original Qwen-VL.

    They have a section `visual`. Their `model_type` is `qwen`, like that of the text-only Qwen.
    """
    return isinstance(settings, Mapping) and "visual" in settings and settings.get("model_type", "qwen") == "qwen"


def is_original_directory(directory: Any) -> bool:
    """Whether `directory` is a path that holds the config.json of an original Qwen-VL. Never raises."""
    try:
        return is_original(read_object(Path(directory, "config.json")))
    except (OSError, ValueError, TypeError):
        return False


def read_original(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The original config.json at `path`: the file itself, the folder that holds it, or a weight file beside it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not the config.json of an original Qwen-VL.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected the original folder, or its config.json")
    if path.suffix != ".json":
        path = (path if path.is_dir() else path.parent) / "config.json"
    if not path.is_file() and (path.parent / ADAPTER).is_file():
        raise ValueError(
            f"{path.parent} is a LoRA adapter, not a model: give the model that it was trained on as the input, and "
            f"`--adapter {path.parent}` to merge the two"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; the original config.json is needed: it says which shapes the weights must have"
        )
    settings = read_object(path)
    if not is_original(settings):
        raise ValueError(
            f"{path} is not the config.json of an original Qwen-VL, which has model_type qwen and a section `visual`"
        )
    return settings


def read_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def our_settings(original: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `QwenVLConfig` from the original's config.json (original file: configuration_qwen.py).

    Raises:
        ValueError: a field is missing; the message names it.
    """
    if not isinstance(original["visual"], Mapping):
        raise ValueError(
            f"config.json: visual must be an object with the fields of the vision tower, got {original['visual']!r}"
        )
    try:
        return _our_settings(original, original["visual"])
    except KeyError as error:
        raise ValueError(f"config.json is not the config.json of a Qwen-VL: it has no {error.args[0]!r}") from None


def _our_settings(original: Mapping[str, Any], visual: Mapping[str, Any]) -> dict[str, Any]:
    dtype = original.get("torch_dtype") or "float32"
    types = {"compute_dtype": dtype, "param_init_type": dtype}
    queries = visual.get("n_queries", VisionSettings.num_queries)
    end_of_text = visual["image_start_id"] - IMAGE_START_OFFSET
    vision = {
        "hidden_size": visual["width"],
        "intermediate_size": int(visual["width"] * visual["mlp_ratio"]),
        "num_hidden_layers": visual["layers"],
        "num_attention_heads": visual["heads"],
        "image_size": visual["image_size"],
        "patch_size": visual["patch_size"],
        "output_dim": visual["output_dim"],
        "num_queries": queries,
        **types,
    }
    llm = {
        "seq_length": original["max_position_embeddings"],
        "train_seq_length": original["seq_length"],
        "hidden_size": original["hidden_size"],
        "num_layers": original["num_hidden_layers"],
        "num_heads": original["num_attention_heads"],
        "kv_channels": original["kv_channels"],
        "intermediate_size": original["intermediate_size"] // 2,
        "vocab_size": original["vocab_size"],
        "rms_norm_eps": original["layer_norm_epsilon"],
        "rotary_emb_base": original["rotary_emb_base"],
        "rotary_pct": original["rotary_pct"],
        "use_dynamic_ntk": original["use_dynamic_ntk"],
        "use_logn_attn": original["use_logn_attn"],
        "initializer_range": original["initializer_range"],
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        **types,
    }
    return {
        "vision_model": {"model_config": vision},
        "llm_model": {"model_config": llm},
        "num_queries": queries,
        "image_start_id": visual["image_start_id"],
    }


def original_sizes(vision: Any, llm: Any) -> dict[str, Any]:
    """The sizes of both parts as the original's config.json names them: all that weights/shapes.py reads.

    Args:
        vision, llm: with the attributes of `VisionSettings` and `LanguageSettings`.
    """
    return {
        "hidden_size": llm.hidden_size,
        "intermediate_size": 2 * llm.intermediate_size,
        "kv_channels": llm.kv_channels,
        "num_attention_heads": llm.num_heads,
        "num_hidden_layers": llm.num_layers,
        "vocab_size": llm.vocab_size,
        "visual": {
            "layers": vision.num_hidden_layers,
            "mlp_ratio": Fraction(vision.intermediate_size, vision.hidden_size),
            "n_queries": vision.num_queries,
            "output_dim": vision.output_dim,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
        },
    }


def original_settings(config: Any) -> dict[str, Any]:
    """The original's config.json for a `QwenVLConfig`: the inverse of `our_settings`.

    Raises:
        ValueError: no mlp_ratio, as the original's config.json has it, gives the width of the vision tower's MLP.
    """
    vision, llm = config.vision, config.llm
    dtype = str(llm.param_init_type).rpartition(".")[2].lower()
    sizes = original_sizes(vision, llm)
    return {
        **sizes,
        "_name_or_path": "./",
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "initializer_range": llm.initializer_range,
        "layer_norm_epsilon": llm.rms_norm_eps,
        "max_position_embeddings": max(llm.seq_length, llm.train_seq_length),
        "model_type": "qwen",
        "no_bias": True,
        "onnx_safe": None,
        "rotary_emb_base": llm.rotary_emb_base,
        "rotary_pct": llm.rotary_pct,
        "scale_attn_weights": True,
        "seq_length": llm.train_seq_length,
        "tie_word_embeddings": False,
        "tokenizer_type": "QWenTokenizer",
        "torch_dtype": dtype if dtype in ("float32", "float16", "bfloat16") else "float32",
        "transformers_version": "4.31.0",
        "use_cache": True,
        "use_dynamic_ntk": llm.use_dynamic_ntk,
        "use_flash_attn": False,
        "use_logn_attn": llm.use_logn_attn,
        "visual": {
            **sizes["visual"],
            "heads": vision.num_attention_heads,
            "image_size": vision.image_size,
            "image_start_id": config.image_start_id,
            "mlp_ratio": _ratio(vision.intermediate_size, vision.hidden_size),
        },
    }


def _ratio(wide: int, width: int) -> float:
    """The ratio for which int(width * ratio) is `wide`, with as few digits as possible."""
    for digits in (1, 10, 100, 1000, 10**4, 10**8):
        least = -(-wide * digits // width)
        for ratio in (least / digits, (least + 1) / digits):  # the first may fall short of `wide` by its rounding
            if int(width * ratio) == wide:
                return ratio
    raise ValueError(f"vision tower: no mlp_ratio turns hidden_size={width} into intermediate_size={wide}")
