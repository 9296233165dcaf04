"""The original's config.json, in our keys."""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.config.language import QwenConfig
from mindformers_qwenvl.config.vision import QwenVLVisionConfig

__all__ = ["IMAGE_START_BEHIND_END_OF_TEXT", "from_original"]

# The special ids stand behind the ranks in a fixed order: end of text, then <|im_start|>, <|im_end|>, ..., <img>.
IMAGE_START_BEHIND_END_OF_TEXT = 214


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
