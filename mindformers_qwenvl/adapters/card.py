"""A short model card, README.md, beside a model that is handed over. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mindformers_qwenvl.files import replacing

__all__ = ["model_card", "write_card"]


def model_card(title: str, facts: Mapping[str, str], dtype: str | None = None) -> str:
    """The card: what the model is, a line for each of `facts` (heading -> text), and how to open it."""
    rows = [f"| {heading} | {_cell(words)} |" for heading, words in facts.items()]
    return "\n".join(
        [
            "---",
            "pipeline_tag: image-text-to-text",
            "tags: [qwen-vl, mindspore, mindformers]",
            "---",
            f"# {title}",
            "",
            "A Qwen-VL in the original's layout"
            + (f", {dtype}" if dtype else "")
            + ", trained with MindFormers and mindformers-qwenvl.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "```",
            "mindformers-qwenvl predict --model . --image PICTURE QUESTION",
            "```",
            "",
        ]
    )


def _cell(words: str) -> str:
    return " ".join(str(words).split()).replace("|", "\\|")


def write_card(folder: Path, text: str) -> bool:
    """Write README.md to `folder`. One that this package did not write is left alone; the result is then False."""
    path = folder / "README.md"
    if path.exists() and "mindformers-qwenvl" not in path.read_text(encoding="utf-8", errors="replace"):
        return False
    with replacing(path, "w") as file:
        file.write(text)
    return True
