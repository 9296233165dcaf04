"""Keys of a model's configuration that are not arguments of our classes. Plain Python.

A key that is neither in these lists nor an argument is an error: with a misspelt key, the model would train or answer
with other settings. docs/yaml.md lists the keys of old YAMLs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mindformers_qwenvl.checks import refuse_unknown

__all__ = ["HINTS", "HUB", "OLD", "OUTER", "TOKENIZER", "refuse_unknown_keys", "without_hub"]

# Keys in YAMLs and configuration classes of MindFormers 1.2 to 1.5 that have no effect: what they turn on, or keep off,
# is always on, or off, here.
OLD = (
    *("enable_slice_dp", "embedding_parallel_optimizer", "enable_emb_opt", "qkv_concat"),  # of the language model
    *("initializer_factor", "enable_fa_opt", "dtype", "pipeline_stage", "hidden_act"),  # of the vision tower
)
# What MindFormers' PretrainedConfig takes, and what its trainer, its pipeline and `save_pretrained` add.
HOST = (
    *("name_or_path", "_name_or_path", "_commit_hash", "checkpoint_name_or_path", "pretrained_model_dir"),
    *("mindformers_version", "tokenizer_class", "bos_token_id", "pad_token_id", "eos_token_id", "architectures"),
    *("is_encoder_decoder", "is_sample_acceleration", "quantization_config", "quantization", "parallel_config"),
    *("pet_config", "moe_config", "swap_config", "type", "auto_register", "model_type", "auto_map", "torch_dtype"),
    *("dataset_config", "calculate_per_token_loss"),  # its trainer passes them to every configuration
    *("transformers_version", "use_eod_attn_mask_compression", "track_max_attention_logit", "disable_lazy_inline"),
)
# Set by our own configurations, so they are in what these save and copy. OUTER: QwenVLConfig sets them from its parts.
DERIVED = ("start_stage", "stage_num", "lora", "adapter")
OUTER = ("vocab_size", "hidden_size", "num_layers", "num_heads", "ignore_token_id")
# Arguments of Hugging Face's and MindFormers' from_pretrained that concern a hub, which is not used here.
HUB = (
    *("cache_dir", "force_download", "resume_download", "local_files_only", "token", "use_auth_token", "revision"),
    *("code_revision", "subfolder", "proxies", "trust_remote_code", "use_fast"),
    *("_from_auto", "_from_pipeline", "_commit_hash", "return_unused_kwargs"),
)
# Keys of the tokenizer beside its arguments: those of the host's tokenizers, and those of old YAMLs.
TOKENIZER = (
    *("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces"),
    *("bos_token", "unk_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens", "verbose"),
    *("split_special_tokens", "special_tokens_map_file", "processor_class", "chat_template", "max_length"),
    *("num_queries", "n_queries", "image_start_tag", "image_end_tag", "image_pad_tag", "ref_start_tag", "ref_end_tag"),
    *("box_start_tag", "box_end_tag", "quad_start_tag", "quad_end_tag"),
)
# Arguments in the original's README, and their equivalents here.
HINTS = {
    "bf16": 'compute_dtype="bfloat16", param_init_type="bfloat16"',
    "fp16": 'compute_dtype="float16", param_init_type="float16"',
    "fp32": 'compute_dtype="float32", param_init_type="float32"',
    "device_map": "mindspore.set_device(...) before the model is made",
    "use_flash_attn": "use_flash_attention, of each part in a YAML",
}


def refuse_unknown_keys(what: str, given: Collection[str], arguments: Collection[str]) -> None:
    """Raise `UnknownNameError` for keys that are neither `arguments` of a class nor in the lists above."""
    refuse_unknown(what, given, {*arguments, *OLD, *HOST, *DERIVED}, HINTS, shown=arguments)


def without_hub(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of from_pretrained without those that concern a hub."""
    return {name: value for name, value in given.items() if name not in HUB}
