"""The report of a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mindformers_qwenvl.weights.shapes import listed

__all__ = ["Report"]


@dataclass
class Report:
    """What a conversion read, wrote and dropped.

    Attributes:
        step_file: for the ranks of a training, the file of the first rank.
        later: files of later steps, not read because not every rank has them.
        overflow: written tensor -> finite values that became infinite.
        not_finite: written tensor -> values that were already NaN or infinite in the input.
    """

    source: Path
    output: Path
    tensors_read: int = 0
    bytes_read: int = 0
    files_read: int = 0
    tensors_written: int = 0
    bytes_written: int = 0
    files_written: list[Path] = field(default_factory=list)
    dtypes: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    overflow: dict[str, int] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    step_file: Path | None = None
    later: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    verified: bool = False
    in_tree: bool = False
    padding: dict[str, int] = field(default_factory=dict)

    def count(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add what was counted in a file, see `transfer.Counts`."""
        self.overflow.update(counts["overflow"])
        self.not_finite.update(counts["not_finite"])

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {code}" for code, count in sorted(self.dtypes.items()))
        lines = [
            f"read     {self.tensors_read} tensors, {self.bytes_read:,} bytes, {self.files_read} files: {self.source}",
            f"wrote    {self.tensors_written} tensors ({kinds}), {self.bytes_written:,} bytes, "
            f"{len(self.files_written)} files: {self.output}",
            f"dropped  {len(self.dropped)} tensors" + (f": {listed(self.dropped, limit=20)}" if self.dropped else ""),
        ]
        if self.in_tree:
            lines.insert(1, "         from the port in MindFormers' own tree (up to 1.5): names and shapes changed")
        if self.step_file:
            lines.insert(1, f"         of the last step that all ranks have saved: {self.step_file.name}")
        if self.later:
            later = listed([str(file.relative_to(file.parent.parent)) for file in self.later])
            lines.append(
                f"WARNING  {later}: later, but not read because not every rank has it. Was the training stopped while "
                "it was saving? If other ranks belong to an older training, move their folders away"
            )
        if self.padding:
            rows = [f"{name} ({count:,})" for name, count in self.padding.items()]
            lines.append(f"dropped  rows beyond the vocabulary: {listed(rows)}")
        if self.kept:
            lines.append(f"kept     {len(self.kept)} shards that an interrupted run had completed: {listed(self.kept)}")
        if self.overflow:
            worst = [f"{name} ({count:,})" for name, count in self.overflow.items()]
            total = sum(self.overflow.values())
            lines.append(
                f"WARNING  {total:,} values are too large for the requested dtype and became infinite (bf16 and fp32 "
                f"can hold them): {listed(worst, limit=20)}"
            )
        if self.not_finite:
            worst = [f"{name} ({count:,})" for name, count in self.not_finite.items()]
            total = sum(self.not_finite.values())
            lines.append(
                f"WARNING  {total:,} values of the input are NaN or infinite, so the model cannot answer: did the "
                f"training diverge? An earlier checkpoint may be sound: {listed(worst, limit=20)}"
            )
        if self.verified:
            lines.append("verified every byte written against the source")
        rate = self.bytes_written / max(self.seconds, 1e-9) / 1e6
        return "\n".join([*lines, f"took     {self.seconds:.1f} s, {rate:,.0f} MB/s"])
