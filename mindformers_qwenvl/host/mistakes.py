"""Mistakes in using run_mindformer.py, reported before anything is built: flags that nothing reads, and YAMLs for
another device."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers.tools.logger import logger

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.config.sizes import LanguageSettings
from mindformers_qwenvl.config.yaml_keys import known_at_top, unknown_keys

__all__ = ["refuse_on_cpu", "say_longer_samples", "say_unused_flags"]

SCRIPT = "run_mindformer.py"
# Flags of the in-tree version's own scripts, and what to use instead.
INSTEAD = {
    "vocab_file": "give train_dataset.tokenizer.vocab_file, or processor.tokenizer.vocab_file in prediction",
    "predict_length": "give model.model_config.max_decode_length",
    "image_path": "give --predict_data with --modal_type image",
    "prompt": "give --predict_data with --modal_type text",
    "seq_length": "give model.model_config.seq_length; to train, also train_dataset.modal_to_text_transform.max_length",
    "use_past": "give model.model_config.use_past",
    "image_size": "set image_size wherever it is in the YAML: of the vision model and of the data",
    "optimizer_parallel": "give parallel.enable_parallel_optimizer",
    "task": "give run_mode and trainer",
    "model_type": "give trainer.model_name",
}
_said: set[str] = set()


def say_unused_flags(config: Mapping[str, Any] | None = None, arguments: Sequence[str] = ()) -> None:
    """Log, once per process, which flags of run_mindformer.py have no effect. The script's source says which it knows;
    it turns all others into keys of the YAML: `--vocab_file` at the top, `--optimizer.eps` in a section.

    Args:
        config: the YAML, with those keys.
        arguments: the script's name and its arguments; (): those of this process.
    """
    script, *words = arguments or sys.argv or [""]
    if Path(script).name != SCRIPT or not Path(script).is_file():
        return
    known = set(re.findall(r"""add_argument\(\s*['"]--([\w-]+)['"]""", Path(script).read_text(encoding="utf-8")))
    given = dict.fromkeys(word[2:].partition("=")[0] for word in words if word.startswith("--"))
    given = [name for name in given if name not in known and name not in _said]
    if not known or not given:
        return
    top = known_at_top()
    unused = {name: INSTEAD.get(name, "") for name in given if "." not in name and name not in top}
    for sentence in unknown_keys(config or {}):
        key, _, what = sentence.partition(": ")
        if key in given and key not in unused:
            unused[key] = what
    if unused:
        _said.update(unused)
        reasons = "; ".join(f"--{name}: {what}" for name, what in unused.items() if what)
        logger.warning("%s: not used: %s. %s", SCRIPT, ", ".join(f"--{name}" for name in unused), reasons)


def refuse_on_cpu(config: Mapping[str, Any], *, training: bool) -> None:
    """Raise ValueError with everything that must be changed to run a YAML for Ascend on a CPU.

    Args:
        config: the YAML; context.device_target is CPU.
        training: whether weights will be updated.
    """
    changes = []
    wrapper = (config.get("runner_wrapper") or {}).get("type")
    if training and wrapper == "MFTrainOneStepCell":
        changes.append(
            "runner_wrapper.type: QwenVLTrainOneStepCell (MFTrainOneStepCell looks for overflows with an operator that "
            "only Ascend has)"
        )
    model = (config.get("model") or {}).get("model_config") or {}
    parts = {name: (model.get(name) or {}).get("model_config") or {} for name in ("vision_model", "llm_model")}
    sections = {"model.model_config": model} | {
        f"model.model_config.{name}.model_config": part for name, part in parts.items() if isinstance(part, Mapping)
    }
    for section, values in sections.items():
        for key in ("compute_dtype", "param_init_type"):
            overruled = section != "model.model_config" and model.get(key) is not None
            if str(values.get(key)) in ("bfloat16", "bf16") and not overruled:
                changes.append(f"{section}.{key}: float32 (a CPU does not compute with bfloat16)")
    if changes:
        raise ValueError(f"context.device_target is CPU, but the YAML is for Ascend; set {'; '.join(changes)}")


def say_longer_samples(config: Mapping[str, Any]) -> None:
    """Log that training samples may be longer than the `seq_length` that the model and `estimate` go by."""
    model = (config.get("model") or {}).get("model_config") or {}
    own = ((model.get("llm_model") or {}).get("model_config") or {}).get("seq_length")
    given = (model.get("seq_length"), own, LanguageSettings.seq_length)
    most = next(length for length in given if length is not None)
    longest = ((config.get("train_dataset") or {}).get("modal_to_text_transform") or {}).get("max_length")
    if is_whole(longest) and is_whole(most) and longest > most:
        logger.warning(
            "train_dataset.modal_to_text_transform.max_length=%d is more than seq_length=%d of the model: samples are "
            "cut at max_length, so they may be longer than the model is meant for; set both to the same number",
            longest,
            most,
        )
