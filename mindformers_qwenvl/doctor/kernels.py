"""Whether this package's operators for decoding work on this CPU, see model/ops/cpu/kernels.py."""

from __future__ import annotations

import os

from mindformers_qwenvl.doctor.findings import NOT_CHECKED, OK, WARNING, Finding
from mindformers_qwenvl.doctor.process import Broken, call

__all__ = ["kernels"]

SECTION = "Decoding on a CPU"


def kernels(target: str, build: bool) -> list[Finding]:
    """One finding: where the compiled operators are, or why there are none.

    Args:
        target: MindSpore's device target.
        build: compile them now if necessary; otherwise only look whether they have been compiled.
    """
    if target != "CPU":
        return [Finding(SECTION, "kernels", NOT_CHECKED, f"they are for a CPU; the device is {target}")]
    try:
        return [Finding(SECTION, "kernels", *call(__name__, "look", build=build))]
    except Broken as error:
        return [Finding(SECTION, "kernels", WARNING, str(error))]


def look(build: bool) -> tuple[str, str]:
    """Runs in a separate process: the state and detail of the finding."""
    from mindformers_qwenvl.model.ops.cpu import kernels as ours

    if ours.is_off():
        return OK, f"switched off by {ours.SWITCH}={os.environ[ours.SWITCH]}"
    try:
        path = ours.build() if build else ours.compiled_file()
    except ours.NoKernels as error:
        return WARNING, f"MindSpore's operators do the work, which is slower: {error}"
    if not path.exists():
        return OK, "compiled at the first answer, or now by doctor --build"
    return OK, f"{path}, {ours.threads()} threads"
