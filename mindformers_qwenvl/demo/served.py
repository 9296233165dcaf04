"""`demo --serve`: the demo's model as a directory in the original's layout, which `serve` takes."""

from __future__ import annotations

from pathlib import Path

from mindformers_qwenvl.adapters.handover import TrainedModel, write_companions
from mindformers_qwenvl.demo import demonstration as demo
from mindformers_qwenvl.demo.adapter import checkpoints
from mindformers_qwenvl.weights.convert.convert import convert

__all__ = ["SYSTEM", "model_directory"]

SYSTEM = "Look."  # the system message of the demo's training


def model_directory(workdir: Path) -> Path:
    """The model that the demo trained in `workdir`, as a directory; the demo runs first if there is none.

    Raises:
        FileNotFoundError: no vocabulary (extra `[demo]`).
        ImportError: no matplotlib (the same).
    """
    workdir = workdir.resolve()
    if not checkpoints(workdir):
        demo.run(workdir)
    demo._quiet()
    folder = workdir / "model"
    folder.mkdir(exist_ok=True)
    model = TrainedModel(demo._yaml("finetune_qwenvl_tiny", workdir))
    write_companions(model, folder)
    convert(checkpoints(workdir)[-1], folder / "model.safetensors", reverse=True, config=folder)
    return folder
