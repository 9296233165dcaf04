"""Whether decoding on this CPU has operators of its own, see model/ops/cpu/kernels.py."""

from __future__ import annotations

import os

from mindformers_qwenvl.doctor.findings import NOT_CHECKED, OK, WARNING, Finding

__all__ = ["kernels"]

SECTION = "Decoding on a CPU"


def kernels(target: str, build: bool) -> list[Finding]:
    """One finding: where the compiled operators are, or why there are none.

    Args:
        target: MindSpore's device target.
        build: compile them now if need be; otherwise only what is there already is looked at.
    """
    from mindformers_qwenvl.model.ops.cpu import kernels as ours

    if target != "CPU":
        return [Finding(SECTION, "kernels", NOT_CHECKED, f"they are for a CPU; the device is {target}")]
    if ours.is_off():
        return [Finding(SECTION, "kernels", OK, f"switched off by {ours.SWITCH}={os.environ[ours.SWITCH]}")]
    try:
        path = ours.build() if build else ours.compiled_file()
    except ours.NoKernels as error:
        return [Finding(SECTION, "kernels", WARNING, f"MindSpore's operators do the work, which is slower: {error}")]
    if not path.exists():
        return [Finding(SECTION, "kernels", OK, "compiled at the first answer, or now by doctor --build")]
    return [Finding(SECTION, "kernels", OK, f"{path}, {ours.threads()} threads")]
