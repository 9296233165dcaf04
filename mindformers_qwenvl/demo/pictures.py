"""What the demo leaves to look at: the loss curve, and held-out pictures with answers and predicted boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mindformers_qwenvl.grounding import draw, parse

__all__ = ["require_matplotlib", "save_answers", "save_loss_curve"]

ENLARGED = 8  # times, for people
ON_THE_SHEET = 12


def require_matplotlib() -> None:
    try:
        import matplotlib
    except ImportError:
        raise ImportError("the demo draws with matplotlib: pip install 'mindformers-qwenvl[demo]'") from None
    matplotlib.use("Agg")


def save_loss_curve(losses: list[float], path: Path) -> None:
    """Loss over steps, logarithmic, with a running mean of 20 steps."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(range(1, len(losses) + 1), losses, color="lightsteelblue", label="each step")
    window = min(20, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(range(window, len(losses) + 1), mean, color="navy", label=f"mean of {window}")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Fine-tuning loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_answers(records: list[dict[str, Any]], answers: list[str], folder: Path) -> None:
    """Each picture with a predicted box as `folder`/ID.png, and a sheet of the first dozen as `folder`.png."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    figure, grid = plt.subplots(3, ON_THE_SHEET // 3, figsize=(12, 10), layout="constrained")
    panels = iter(grid.flat)
    for record, answer in zip(records, answers, strict=True):
        image = Image.open(record["image"]).convert("RGB")
        image = image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.NEAREST)
        if found := parse(answer).objects:
            image = draw(image, found)
            image.save(folder / f"{record['id']}.png")
        if panel := next(panels, None):
            panel.imshow(image)
            said = "".join(f"{box.label}: box" for box in found) or answer
            panel.set_title(f"{record['text']}\n{said}", fontsize=11)
            panel.axis("off")
    figure.savefig(folder.with_suffix(".png"), dpi=100)
    plt.close(figure)
