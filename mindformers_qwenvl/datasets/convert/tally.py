"""What a conversion left out and why, and the exception that says so of one record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["MISSING", "Report", "UnusableError"]

MISSING = "missing picture"
SHOWN = 5  # ids that the summary names of each kind


class UnusableError(ValueError):
    """A record that cannot become a sample. `kind` groups such records in the summary: "missing picture", ..."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass
class Report:
    """Counts of one conversion; of what was left out, the first ids. Its size does not depend on the input's."""

    read: int = 0
    written: int = 0
    pictures: int = 0
    text_only: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def drop(self, name: str, error: UnusableError) -> None:
        """Count a record that is left out; `name` is its id, or its number in the file."""
        self.dropped[error.kind] += 1
        first = self.first.setdefault(error.kind, [])
        if len(first) < SHOWN:
            first.append(f"{name}: {error}")

    def sample(self, pictures: int) -> None:
        """Count a record that was written."""
        self.written += 1
        self.pictures += pictures
        self.text_only += not pictures

    def __str__(self) -> str:
        lines = [f"read     {self.read:,} records"]
        lines.append(
            f"wrote    {self.written:,} samples, {self.pictures:,} pictures in them, {self.text_only:,} text only"
        )
        lines += [f"note     {count:,} {what}" for what, count in self.notes.items()]
        if self.dropped:
            lines.append(f"dropped  {self.dropped.total():,} records")
        for kind, count in self.dropped.most_common():
            lines.append(f"  {kind}: {count:,}")
            lines += [f"    {text}" for text in self.first[kind]]
            if count > len(self.first[kind]):
                lines.append("    ...")
        return "\n".join(lines)
