"""A disk that is full in mid-write: a word, exit code 1, no partial file, and what was there before stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.check_samples import talk, write_yaml
from tests.support.golden import write_checkpoint

SIZE = "1m"


def run(only: str = "") -> int:
    """Print the table; how many went wrong."""
    print("| command on a full disk | exit code | said | left behind |")
    print("|---|---|---|---|", flush=True)
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        for name, words in _commands(Path(place)).items():
            if only in name:
                code, said, left = full(Path(place), words)
                lines = [line for line in said.replace("\r", "\n").split("\n") if line.startswith("mindformers-qwenvl")]
                [word] = lines or ["nothing"]
                word = "No space left on device" if "No space left" in word else "it needs more than the disk has free"
                is_right = code == 1 and len(lines) == 1 and "Traceback" not in said and not left
                bad += not is_right
                print(f"| {name} | {code} | {word} | {', '.join(left) or 'nothing'} |", flush=True)
    print()
    return bad


def full(place: Path, words: Callable[[Path], list[str]]) -> tuple[int, str, list[str]]:
    """Run a command whose output goes to a small disk, which needs root: exit code, standard error, what is left."""
    disk = place / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    try:
        command = [sys.executable, "-m", "mindformers_qwenvl", *words(disk)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place, timeout=600, env={**os.environ})
        left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
        # A folder's conversion keeps on purpose what a rerun goes on with.
        kept = {"out", "out/conversion.unfinished", "out/conversion.unfinished/manifest.json"}
        return done.returncode, done.stderr, [name for name in left if name not in kept]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _commands(place: Path) -> dict[str, Callable[[Path], list[str]]]:
    model = place / "model"
    model.mkdir()
    write_checkpoint("a56", model, seed=0)
    records = [talk("question " * 50, "answer " * 50) for _ in range(2000)]
    (place / "data.json").write_text(json.dumps(records), encoding="utf-8")
    broken = [talk(f"<img>missing{number}.png</img>" + "x" * 400) for number in range(9000)]
    (place / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    yaml = str(write_yaml(place))
    weights = ["convert-weight", "--input_path", str(model), "--dtype", "fp32", "--output_path"]
    data = ["convert-data", "--quiet", "--data_path", str(place / "data.json"), "--output_path"]
    check = ["check-data", str(place / "broken.json"), "--yaml", yaml, "--quiet", "--workers", "2", "--report"]
    return {
        "convert-weight, one file": lambda disk: [*weights, str(disk / "out.safetensors")],
        "convert-weight, a folder": lambda disk: [*weights, str(disk / "out")],
        "convert-data": lambda disk: [*data, str(disk / "out.json")],
        "check-data --report": lambda disk: [*check, str(disk / "found.jsonl")],
    }
