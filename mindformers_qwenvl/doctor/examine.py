"""The whole examination, from checks that cost nothing to those that need the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindformers_qwenvl.doctor import machine
from mindformers_qwenvl.doctor.findings import NOT_CHECKED, Finding, failed
from mindformers_qwenvl.doctor.kernels import kernels
from mindformers_qwenvl.doctor.operators import operators
from mindformers_qwenvl.doctor.plugin import plugin
from mindformers_qwenvl.doctor.trial import trial as run_trial
from mindformers_qwenvl.doctor.yaml_check import look_through

__all__ = ["examine"]


def examine(
    trial: bool, device: bool, say: Callable[[str], None], build: bool = False, yaml: Path | None = None
) -> list[Finding]:
    """All findings, in the order of the report.

    Args:
        trial: train and answer at tiny size.
        device: compare the operators of the device.
        say: called with what comes next, before the parts that take a while.
        build: compile the operators for decoding on a CPU.
        yaml: a YAML to check, or the name of a shipped one.
    """
    found = [*machine.machine(), *machine.host(), *machine.optional(), *(look_through(yaml) if yaml else ())]
    if any(finding.section == "Host" and failed([finding]) for finding in found):
        why = "there is no MindFormers with MindSpore to try"
        return [*found, *(Finding("Not tried", name, NOT_CHECKED, why) for name in ("plugin", "trial", "operators"))]
    say("importing MindFormers")
    seen, target = plugin()
    found += seen
    if target is None:
        why = "MindFormers cannot be imported"
        return [*found, *(Finding("Not tried", name, NOT_CHECKED, why) for name in ("trial", "operators"))]
    if build:
        say("compiling the operators for decoding")
    found += kernels(target, build)
    if trial:
        say("training and answering at tiny size")
        found += run_trial()
    if device:
        say("comparing the operators")
        found += operators(target)
    return found
