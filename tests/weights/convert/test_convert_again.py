"""What an interrupted conversion leaves behind, and a rerun that goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.convert import convert as conversion
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from tests.support.checkpoints import ROOT, copy_of, original_bytes

SLOWLY = """
import sys, time
from pathlib import Path
from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
transfer.BLOCK = 20_000
def slow(total):
    print("go", flush=True)
    return tick
def tick(name, count):
    time.sleep(0.001)
    if len(list(Path(sys.argv[2]).glob("conversion.unfinished/*.safetensors"))) == int(sys.argv[3]):
        print("there", flush=True)
        time.sleep(600)
report = convert(sys.argv[1], sys.argv[2], max_shard_size=3_000_000, dtype="bf16", progress=slow)
print(len(report.kept))
"""


def run_slowly(source: Path, output: str, until: int = -1) -> subprocess.Popen:
    """A conversion, which stops for long when `until` shards are complete."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(source), output, str(until)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "go\n"
    return process


@pytest.mark.parametrize("output", ["ours", "ours.safetensors", "ours.ckpt"])
def test_killed_at_any_moment(output, checkpoint_dir):
    """Killed again and again at random moments: whatever has a final name is whole, and a rerun completes it."""
    source = checkpoint_dir("c448")
    random = np.random.default_rng(len(output))
    interrupted = 0
    for _ in range(6):
        process = run_slowly(source, output)
        time.sleep(random.uniform(0, 0.4))
        process.kill()
        process.communicate()
        interrupted += process.returncode == -signal.SIGKILL
        for file in [*Path().glob("ours/*.safetensors"), *Path().glob("ours.*")]:
            if not file.name.endswith(".tmp"):
                Checkpoint(file).close()  # refuses a file that is not whole
        if Path("ours/model.safetensors.index.json").exists():
            Checkpoint("ours").close()
    assert interrupted
    convert(source, output, max_shard_size=3_000_000, dtype="bf16", verify=True)
    assert not [path for path in Path().rglob("*") if "tmp" in path.suffix or "unfinished" in path.name]
    if output != "ours.ckpt":
        convert(output, "back", reverse=True, config=source)
        convert(source, "direct", dtype="bf16")
        convert("direct", "direct_back", reverse=True)
        assert original_bytes(Path("back")) == original_bytes(Path("direct_back"))


def interrupted(source: Path, after: int) -> None:
    """A conversion to `ours` that is killed when `after` shards are complete."""
    process = run_slowly(source, "ours", after)
    assert process.stdout.readline() == "there\n"
    process.kill()
    process.communicate()
    assert not list(Path("ours").glob("*.safetensors"))


def test_a_rerun_goes_on_where_it_was_interrupted(checkpoint_dir):
    folder = copy_of(checkpoint_dir("c448"))
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    first = next(name for name, value in tensors.items() if value.ndim > 1)
    tensors[first][0, 0] = 3.4e38  # too large for bfloat16: the report knows it although another run counted it
    save_file(tensors, shard)
    interrupted(folder, after=2)
    kept = {file.name: file.stat() for file in Path("ours/conversion.unfinished").glob("*.safetensors")}
    ticks = []
    report = convert(
        folder,
        "ours",
        dtype="bf16",
        max_shard_size=3_000_000,
        verify=True,
        progress=lambda total: lambda name, count: ticks.append(count),
    )
    assert report.kept == sorted(kept)
    assert len(kept) >= 2
    assert f"kept     {len(kept)} shards" in str(report)
    assert sum(report.overflow.values()) == 1
    assert sum(ticks) == report.bytes_written
    for name, before in kept.items():
        now = (Path("ours") / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("change", ["time", "size", "dtype", "shards"])
def test_a_rerun_with_anything_else_starts_anew(change, checkpoint_dir):
    folder = copy_of(checkpoint_dir("c448"))
    interrupted(folder, after=1)
    shard = folder / "model-00003-of-00003.safetensors"
    options = {"dtype": "bf16", "max_shard_size": 3_000_000}
    if change == "time":
        os.utime(shard, ns=(0, 0))
    elif change == "size":
        save_file(load_file(shard), shard, metadata={"format": "pt", "longer": "than before"})
    elif change == "dtype":
        options["dtype"] = "fp16"
    else:
        options["max_shard_size"] = 2_000_000
    report = convert(folder, "ours", verify=True, **options)
    assert report.kept == []
    assert not Path("ours/conversion.unfinished").exists()


def test_killed_while_shards_get_their_names(checkpoint_dir, monkeypatch):
    """Over an older result: after the kill some shards have their final name, and the rerun converts none again."""
    source = checkpoint_dir("c448")
    options = {"max_shard_size": 3_000_000, "dtype": "bf16"}
    convert(source, "ours", max_shard_size=3_000_000)
    count = len(list(Path("ours").glob("*.safetensors")))
    replace, moved = Path.replace, []

    def stop_at_the_second(self, target):
        if self.parent.name == "conversion.unfinished" and Path(target).parent.name == "ours":
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", stop_at_the_second)
        convert(source, "ours", **options)
    assert [file.name for file in Path("ours").glob("*.safetensors")] == [moved[0].name]
    assert not Path("ours/model.safetensors.index.json").exists()
    report = convert(source, "ours", verify=True, **options)
    assert len(report.kept) == len(report.files_written) < count
    assert not Path("ours/conversion.unfinished").exists()


def test_an_older_result_stays_until_the_new_one_is_complete(checkpoint_dir, monkeypatch):
    convert(checkpoint_dir("a56"), "ours", max_shard_size=1_000_000)
    before = original_bytes(Path("ours"))
    monkeypatch.setattr(conversion, "write_numbers", lambda *_: (_ for _ in ()).throw(OSError("the disk broke")))
    with pytest.raises(OSError, match="the disk broke"):
        convert(checkpoint_dir("a56"), "ours", dtype="bf16")
    assert original_bytes(Path("ours")) == before


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"files": 3}', '{"files": [3, null]}', "[" * 200_000])
def test_a_damaged_record_of_an_earlier_run(content, checkpoint_dir):
    """It cannot say which weights were written here, so none of them may be removed."""
    convert(checkpoint_dir("a56"), "out")
    Path("out/conversion.json").write_text(content)
    with pytest.raises(ValueError, match=r"out already holds weights \(model\.safetensors\): give an empty folder"):
        convert(checkpoint_dir("a56"), "out")


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 200_000])
def test_a_damaged_manifest_begins_anew(content, checkpoint_dir):
    Path("out/conversion.unfinished").mkdir(parents=True)
    Path("out/conversion.unfinished/manifest.json").write_text(content)
    Path("out/conversion.unfinished/model.safetensors").write_bytes(b"half")
    assert convert(checkpoint_dir("a56"), "out", verify=True).kept == []
