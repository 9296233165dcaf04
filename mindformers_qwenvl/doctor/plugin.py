"""What `import mindformers` brings: plugins, the names that are registered, the work-arounds, the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindformers_qwenvl.doctor.findings import FAILED, OK, WARNING, Finding
from mindformers_qwenvl.doctor.process import Broken, call
from mindformers_qwenvl.host import ACTIVE, NOT_NEEDED

__all__ = ["NAMES", "plugin"]

# Kind in MindFormers' registry -> names that a YAML may use.
NAMES = {
    "config": ("QwenVLConfig", "QwenVLVisionConfig", "QwenConfig"),
    "models": ("QwenVL", "QwenVLVisionModel", "QwenForCausalLM"),
    "tokenizer": ("QwenVLTokenizer",),
    "processor": ("QwenVLProcessor", "QwenVLImageProcessor"),
    "transforms": ("QwenVLContentTransformTemplate", "QwenVLBatchNormalize"),
    "dataset_loader": ("QwenVLDataLoader",),
    "wrapper": ("QwenVLTrainOneStepCell",),
    "optimizer": ("QwenVLAdamW", "FP32StateAdamWeightDecay"),
    "callback": ("QwenVLMonitor", "QwenVLAdapterMonitor", "ObsMonitor"),
    "trainer": ("MultiModalToTextGenerationTrainer", "ImageToTextGenerationTrainer"),
    "pipeline": ("multi_modal_to_text_generation",),
}


def look() -> dict[str, Any]:
    """Runs in a separate process: import MindFormers as any program does, and see what is there."""
    import sys

    import mindformers

    from mindformers_qwenvl import host
    from mindformers_qwenvl.discovery.manager import load_plugins
    from mindformers_qwenvl.host.context import device_target

    hooked = any(type(finder).__name__ == "PluginHook" for finder in sys.meta_path)
    plugins = [[one.name, one.distribution, one.state, one.reason] for one in load_plugins()]
    registry = mindformers.MindFormerRegister
    missing = [name for kind, names in NAMES.items() for name in names if not registry.is_exist(kind, name)]
    states = [[state.work_around.name, state.state, state.reason] for state in host.states()]
    return {
        "device": device_target(),
        "hooked": hooked,
        "plugins": plugins,
        "missing": missing,
        "states": states,
    }


def plugin() -> tuple[list[Finding], str | None]:
    """The findings, and the device that MindSpore uses; None if the host cannot be imported."""
    try:
        seen = call(__name__, "look")
    except Broken as error:
        return [Finding("Plugin", "import mindformers", FAILED, str(error))], None
    return list(_findings(seen)), seen["device"]


def _findings(seen: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("Plugin", "device", OK, seen["device"])
    how = "in place" if seen["hooked"] else "not in place: put `import mindformers_qwenvl_boot` before mindformers"
    yield Finding("Plugin", "start-up hook", OK if seen["hooked"] else WARNING, how)
    for name, distribution, state, reason in seen["plugins"]:
        ours = name == "qwenvl"
        level = OK if state == "loaded" else FAILED if ours or state == "broken" else WARNING
        yield Finding("Plugin", f"plugin {name}", level, f"{distribution}: {state}{f', {reason}' if reason else ''}")
    if not any(name == "qwenvl" for name, *_ in seen["plugins"]):
        yield Finding(
            "Plugin", "plugin qwenvl", FAILED, "not among the installed plugins: install the package with pip"
        )
    missing = seen["missing"]
    for kind, names in NAMES.items():
        lost = [name for name in names if name in missing]
        detail = f"not registered: {', '.join(lost)}" if lost else ", ".join(names)
        yield Finding("Registered names", kind, FAILED if lost else OK, detail)
    for name, state, reason in seen["states"]:
        lost = state not in (ACTIVE, NOT_NEEDED)
        detail = f"{state}: {reason}" if reason else state
        yield Finding("Work-arounds", name, WARNING if lost else OK, detail, {"state": state})
