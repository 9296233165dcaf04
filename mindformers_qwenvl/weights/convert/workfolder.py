"""Writing a folder of shards so that an interruption, at any moment, costs one shard.

Shards are written in a working folder inside the output folder, with a manifest of what they were made from. When all
are complete they get their final names, and the index comes last. A rerun with the same options and inputs (by name,
size and time of change) continues after the complete shards; any other run starts anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mindformers_qwenvl.files import write_json
from mindformers_qwenvl.weights.formats import ENDINGS
from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX

__all__ = ["MINDSPORE_INDEX", "UNFINISHED", "WorkFolder", "fingerprint"]

MINDSPORE_INDEX = "param_name_map.json"  # what MindSpore reads where HuggingFace reads model.safetensors.index.json
RECORD = "conversion.json"  # names our files, so that a rerun replaces only these and never a user's own
UNFINISHED = "conversion.unfinished"
FORM = 2  # version of the manifest


def fingerprint(inputs: Sequence[Path], result: object) -> str:
    """A hash of what a conversion reads (name, size, time of change) and of `result`, a JSON value: what it makes."""
    read = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in inputs]
    return hashlib.sha256(json.dumps([FORM, read, result]).encode()).hexdigest()


class WorkFolder:
    """The output folder `directory` while a conversion with the hash `made_from` writes into it."""

    def __init__(self, directory: Path, made_from: str):
        """Find what an earlier run left.

        Raises:
            ValueError: `directory` holds weight files of another origin.
        """
        self.directory, self._work = directory, directory / UNFINISHED
        directory.mkdir(parents=True, exist_ok=True)
        weights = {file.name for file in directory.iterdir() if file.suffix in ENDINGS}
        if foreign := sorted(weights - self._recorded()):
            raise ValueError(f"{directory} already holds weights ({', '.join(foreign[:3])}): give an empty folder")
        self._manifest = {"made_from": made_from, "finished": {}, "publishing": False}
        found = _read(self._work / "manifest.json")
        if found.get("made_from") == made_from and found.keys() == self._manifest.keys():
            self._manifest = found
            return
        if self._work.exists():
            shutil.rmtree(self._work)
        self._work.mkdir()
        self._save()

    def _recorded(self) -> set[str]:
        files = _read(self.directory / RECORD).get("files")
        return {Path(name).name for name in files if isinstance(name, str)} if isinstance(files, list) else set()

    def _save(self) -> None:
        write_json(self._work / "manifest.json", self._manifest)

    def kept(self) -> dict[str, dict[str, Any]]:
        """Complete shards of an earlier run: file name -> what was counted in it."""
        return {
            name: counts
            for name, counts in self._manifest["finished"].items()
            if (self._work / name).is_file() or (self._manifest["publishing"] and (self.directory / name).is_file())
        }

    def left_over(self) -> list[Path]:
        """Shards an earlier run did not complete; they are written again, in place."""
        return sorted(self._work.glob("*.safetensors.tmp"))

    def write(self, name: str, write: Callable[[IO[bytes]], dict[str, Any]]) -> dict[str, Any]:
        """Have `write` write the shard `name`: it gets the open file and returns what it counted, a JSON value.

        Unlike `files.replacing`, this leaves an interrupted file in place: a rerun overwrites it, so its room is known.
        """
        unfinished = self._work / f"{name}.tmp"
        with unfinished.open("wb", buffering=0) as file:
            counts = write(file)
        self._manifest["finished"][name] = counts
        self._save()  # before the shard gets its name: a shard with a name is always in the manifest
        unfinished.replace(self._work / name)
        return counts

    def publish(self, weight_map: Mapping[str, str], total_size: int, form: str) -> list[Path]:
        """Give the shards their final names, and write the index (for our layout, MindSpore's too).

        What an earlier run wrote is removed first, the index before the shards: an index never covers a mixture.

        Raises:
            FileNotFoundError: a shard that was written is gone; nothing has been changed.
        """
        names = list(dict.fromkeys(weight_map.values()))
        kept = self.kept()
        if absent := [name for name in names if name not in kept]:
            raise FileNotFoundError(
                f"{self.directory}: the finished shard {absent[0]} is gone; run the conversion again to write it"
            )
        recorded = self._recorded()
        write_json(self.directory / RECORD, _record(recorded | set(names)))
        for name in (SAFETENSORS_INDEX, MINDSPORE_INDEX):
            (self.directory / name).unlink(missing_ok=True)
        if not self._manifest["publishing"]:
            for name in sorted(recorded):
                (self.directory / name).unlink(missing_ok=True)
            self._manifest["publishing"] = True
            self._save()  # from here on, a shard that is not in the working folder has its final name
        for name in names:
            if (self._work / name).is_file():
                (self._work / name).replace(self.directory / name)
        if len(names) > 1:
            content = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
            write_json(self.directory / SAFETENSORS_INDEX, content)
            if form == "ms":
                write_json(self.directory / MINDSPORE_INDEX, dict(weight_map))
        write_json(self.directory / RECORD, _record(names))
        shutil.rmtree(self._work)
        return [self.directory / name for name in names]


def _read(path: Path) -> dict[str, Any]:
    """The content of a file of an earlier run; empty if there is none, or if it is not one of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _record(names: Sequence[str] | set[str]) -> dict[str, object]:
    return {"written_by": "mindformers-qwenvl convert-weight", "files": sorted(names)}
