"""The demo's pictures: the loss curve, and a sheet of held-out pictures with the answers. Drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mindformers_qwenvl.demo.score import Mark
from mindformers_qwenvl.grounding import GRID, Box
from mindformers_qwenvl.training.curves import smooth

__all__ = ["require_matplotlib", "save_answers", "save_loss_curve"]

COLUMNS, ROWS = 5, 4  # of the sheet
WINDOW = 21  # steps in each mean of the smoothed loss
PICTURE, COLUMN, ROW, TOP, BOTTOM = 2.25, 2.6, 2.9, 0.85, 0.6  # inches
RIGHT, WRONG, TRUE, GREY = "#15803d", "#b91c1c", "white", "#404040"


def require_matplotlib() -> None:
    """Raise ImportError, with what to do, unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("the demo draws with matplotlib: pip install 'mindformers-qwenvl[demo]'") from None


def save_loss_curve(losses: Sequence[float], path: Path) -> None:
    """The loss of each step and its running mean, on a logarithmic axis, as the PNG `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color="#93b4dd", linewidth=1, label="each step")
    axes.plot(steps, smooth(losses, WINDOW), color="#12306b", linewidth=1.8, label=f"mean of {WINDOW} steps around it")
    axes.set(xlabel="step", ylabel="loss (log scale)", yscale="log", title="Fine-tuning loss")
    axes.margins(x=0.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def save_answers(records: Sequence[dict[str, Any]], answers: Sequence[str], marks: Sequence[Mark], path: Path) -> None:
    """A sheet of held-out pictures with question, answer and mark, as the PNG `path`.

    At most twenty pictures: wrong answers first, then right ones. The true box is dashed; the answer's box is solid, in
    the colour of the mark.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    wrong = sum(not found.right for found in marks)
    shown = sorted(range(len(marks)), key=lambda index: marks[index].right)[: COLUMNS * ROWS]
    rows = -(-len(shown) // COLUMNS)
    height = TOP + rows * ROW + BOTTOM
    figure = Figure(figsize=(COLUMNS * COLUMN, height))
    for place, index in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        left, bottom = (column + 0.5) * COLUMN - PICTURE / 2, height - TOP - (row + 1) * ROW
        panel = figure.add_axes(
            (left / (COLUMNS * COLUMN), bottom / height, PICTURE / (COLUMNS * COLUMN), PICTURE / height)
        )
        panel.axis("off")
        _draw_answer(panel, records[index], answers[index], marks[index])
    title = f"{len(marks) - wrong} of {len(marks)} answers about new pictures are right"
    figure.text(0.5, 1 - 0.35 / height, title, fontsize=16, weight="bold", ha="center", va="center")
    below = f"{len(shown)} of them are shown{', the wrong ones first' if wrong else ''}"
    figure.text(0.5, 1 - 0.68 / height, below, fontsize=11, color=GREY, ha="center", va="center")
    handles = [
        Line2D([], [], color=GREY, linestyle=(0, (3, 3)), linewidth=2, label="true box"),
        Line2D([], [], color=RIGHT, linewidth=2.5, label="box of the answer, right (IoU of 0.5 or more)"),
        Line2D([], [], color=WRONG, linewidth=2.5, label="box of the answer, wrong"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=11)
    figure.savefig(path, dpi=100)


def _draw_answer(panel: Any, record: dict[str, Any], answer: str, found: Mark) -> None:
    colour = RIGHT if found.right else WRONG
    with Image.open(record["image"]) as image:
        panel.imshow(image.convert("RGB"), interpolation="nearest", extent=(0, GRID, GRID, 0))
    panel.set(xlim=(0, GRID), ylim=(GRID, 0))
    said = _in_words(answer, found.said)
    if found.true is not None:
        said += f", IoU {found.box_iou:.2f}"
        if found.said is not None:
            panel.add_patch(_outline(found.said, edgecolor=colour, linewidth=4))
        panel.add_patch(_outline(found.true, edgecolor=TRUE, linewidth=1.8, linestyle=(0, (4, 4))))
    elif not found.right:
        said += f" (it is {record['answer']})"
    panel.set_title(f"{record['text']}\n", fontsize=10.5, color=GREY)
    panel.text(
        0.5,
        1.02,
        f"{'✓' if found.right else '✗'}  {said}",
        transform=panel.transAxes,
        ha="center",
        va="bottom",
        fontsize=10.5,
        weight="bold",
        color=colour,
    )


def _in_words(answer: str, box: Box | None, limit: int = 16) -> str:
    words = " ".join((answer if box is None else box.label or "a box").split()) or "no answer"
    return words if len(words) <= limit else f"{words[: limit - 1].rstrip()}…"


def _outline(box: Box, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((box.x1, box.y1), box.x2 - box.x1, box.y2 - box.y1, fill=False, clip_on=False, **style)
