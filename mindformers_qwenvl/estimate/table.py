"""An estimate as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers_qwenvl.estimate.memory import Estimate
from mindformers_qwenvl.estimate.units import GB

__all__ = ["render"]

_ROWS = (
    ("weights", "weights"),
    ("optimizer states", "optimizer"),
    ("accumulated gradients", "accumulated"),
    ("computing weights", "computing_weights"),
    ("key/value cache", "cache"),
)
_MOMENTS = {
    "loss": "at the loss",
    "backward": "in the backward pass",
    "update": "in the update",
    "prompt": "reading the prompt",
    "logits": "at the logits",
}


def render(found: Estimate, device_memory: int | None) -> str:
    """Lines: what the job is, a column for each pipeline stage, and whether it fits in `device_memory` bytes."""
    job, parallel = found.job, found.job.parallel
    shared = ", optimizer parallel" if parallel.enable_parallel_optimizer else ""
    lines = [
        f"{job.name}: {parallel.cards} card{'s' * (parallel.cards > 1)} = data_parallel {parallel.data_parallel} x "
        f"model_parallel {parallel.model_parallel} x pipeline_stage {parallel.pipeline_stage}{shared}",
        f"{found.parameters:,} parameters, {found.trained:,} of them trained; {job.rows} x {job.tokens:,} tokens and "
        f"{job.images} picture{'s' * (job.images > 1)} of {job.vision.image_size} pixels a card",
        "",
    ]
    stages, unit = len(found.cards), GB if found.total >= GB else GB // 1024
    titles = [f"stage {card.stage}" for card in found.cards] if stages > 1 else ["a card"]
    lines.append(_row("GB" if unit == GB else "MB", titles))
    for title, name in _ROWS:
        values = [getattr(card, name) for card in found.cards]
        if name == "weights" or any(values):
            lines.append(_row(title, values, unit))
    lines += [_row("held all the time", [card.held for card in found.cards], unit), ""]
    if not job.predict:
        lines.append(_row("  gradients", [card.gradients for card in found.cards], unit))
        lines.append(_row("  activations kept", [card.activations for card in found.cards], unit))
    for moment, words in _MOMENTS.items():
        if any(moment in card.moments for card in found.cards):
            lines.append(_row(f"more {words}", [card.moments.get(moment) for card in found.cards], unit))
    lines += [_row("total at the peak", [card.total for card in found.cards], unit)]
    lines.append("")
    total = f"{found.total / unit:.1f} {'GB' if unit == GB else 'MB'}"
    if device_memory is None:
        lines.append(f"The fullest card needs {total}; --device-memory 64GB checks whether that fits.")
    else:
        word = "fits in" if found.total <= device_memory else "DOES NOT FIT in"
        lines.append(f"The fullest card needs {total}: {word} {device_memory / GB:.1f} GB.")
    if not (job.fused or job.predict):
        lines.append("On a CPU, activations were measured to take four times as much as counted here.")
    return "\n".join(lines)


def _row(title: str, values: Sequence[int | str | None], unit: int = 1) -> str:
    """`values`: bytes, a heading, or None if a stage has no such moment."""
    cells = []
    for value in values:
        shown = f"{value / unit:.2f}" if isinstance(value, int) else value or "-"
        cells.append(f"{shown:>10}")
    return f"{title:<26}" + "".join(cells)
