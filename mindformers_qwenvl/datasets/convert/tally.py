"""The report of a conversion: what was left out and why; and the exception for one record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mindformers_qwenvl.checks import printable

__all__ = ["MISSING", "ConversionReport", "UnusableError"]

MISSING = "missing picture"
SHOWN = 5  # ids of each kind that the summary names


class UnusableError(ValueError):
    """A record that cannot become a sample. The summary groups such records by `kind`: "missing picture", ..."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass
class ConversionReport:
    """Counts of one conversion, and the first ids of what was left out. Its size does not grow with the input."""

    read: int = 0
    written: int = 0
    pictures: int = 0
    text_only: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def drop(self, name: str, error: UnusableError) -> None:
        """Count a record that is left out; `name` is its id or its number in the file."""
        self.dropped[error.kind] += 1
        first = self.first.setdefault(error.kind, [])
        if len(first) < SHOWN:
            first.append(printable(f"{name}: {error}"))

    def sample(self, pictures: int) -> None:
        """Count a record that was written."""
        self.written += 1
        self.pictures += pictures
        self.text_only += not pictures

    def __str__(self) -> str:
        lines = [f"read     {self.read:,} records"]
        lines.append(
            f"wrote    {self.written:,} samples, with {self.pictures:,} pictures; {self.text_only:,} without a picture"
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
