"""The `curl` of the docs works as printed, except for the address and the name of the model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    code
    for code in re.findall(
        r"^```shell\n(.*?)^```$", (ROOT / "docs/serve.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    if "curl" in code
]


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "bash", "base64"))), reason="curl, bash or base64 is missing")
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_curl(address, number, tmp_path):
    command = COMMANDS[number].replace("http://127.0.0.1:8000", address).replace('"tiny"', '"base"')
    command = command.replace("question.json", str(tmp_path / "question.json"))
    done = subprocess.run(["bash", "-ec", command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    if "stream" not in command:
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]
    else:
        blocks = [block for block in done.stdout.split("\n\n") if block]
        last = json.loads(blocks[-2].removeprefix("data: "))["choices"][0]
        assert blocks[-1] == "data: [DONE]" and last["boxes"] == [] and last["finish_reason"] in ("stop", "length")


def test_there_are_two():
    assert len(COMMANDS) == 2
