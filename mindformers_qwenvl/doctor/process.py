"""Run functions of this package in a fresh process: a wrong driver or a missing kernel may end it without a word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

__all__ = ["Broken", "call"]

RESULT = "DOCTOR RESULT "
# The child finds modules where this process does, and not in the current folder.
CODE = """
import importlib, json, sys
path, module, function, arguments = json.loads(sys.argv[1])
sys.path[:] = path
found = getattr(importlib.import_module(module), function)(**arguments)
print("\\n" + {result!r} + json.dumps(found), flush=True)
"""


class Broken(RuntimeError):
    """The process ended without a result; the message has the last line that it wrote."""


def call(module: str, function: str, *, seconds: float = 600, **arguments: Any) -> Any:
    """`module.function(**arguments)` in a separate process. Arguments and result must be what JSON can hold.

    Raises:
        Broken: the function raised, crashed, or took longer than `seconds`.
    """
    task = json.dumps([sys.path, module, function, arguments])
    with tempfile.TemporaryDirectory(prefix="mindformers-qwenvl-doctor-") as folder:
        environment = {**os.environ, "LOCAL_DEFAULT_PATH": folder}  # where MindFormers writes its logs
        environment.setdefault("GLOG_v", "3")
        try:
            done = subprocess.run(
                [sys.executable, "-c", CODE.format(result=RESULT), task],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise Broken(f"no result after {seconds:.0f} s") from None
    for line in done.stdout.splitlines():
        if line.startswith(RESULT):
            return json.loads(line.removeprefix(RESULT))
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    raise Broken(f"{said[-1][:400] if said else 'it wrote nothing'} ({ended})")
