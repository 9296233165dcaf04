"""`demo --lora`: an adapter on the demo's model learns a colour, through MindFormers' Trainer.

Three models answer about the same pictures: the base model, the base model with the adapter, and the weights with the
adapter merged into them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.adapters.convert import Merging
from mindformers_qwenvl.adapters.handover import TrainedModel, write_companions
from mindformers_qwenvl.demo import demonstration as demo
from mindformers_qwenvl.demo import pictures, shapes
from mindformers_qwenvl.demo.score import Score, mark, score
from mindformers_qwenvl.recipes.yaml_file import dump, read_file
from mindformers_qwenvl.weights.convert.convert import convert

__all__ = ["AdapterScores", "checkpoints", "run"]

TO_LEARN, HELD_OUT, SEED = 1600, 60, 11
LEARNT = 0.9  # share of right answers that the adapter must reach
SHOWN = 3


@dataclass(frozen=True)
class AdapterScores:
    """Scores on held-out pictures of the new colour, and of the adapter on pictures of the old ones."""

    base: Score
    adapter: Score
    merged: Score
    old_colours: Score
    same_answers: bool

    @property
    def passed(self) -> bool:
        return self.adapter.right >= LEARNT and self.base.right < self.adapter.right and self.same_answers

    def __str__(self) -> str:
        rows = (("base", self.base), ("adapter", self.adapter), ("merged", self.merged))
        lines = [f"{'':<30}{'colour':>9}{'shape':>9}{'box IoU':>9}"]
        lines += [f"{f'new colour, {name}':<30}{_cells(found)}" for name, found in rows]
        lines.append(f"{'old colours, adapter':<30}{_cells(self.old_colours)}")
        lines.append(f"adapter and merged weights answer {'the same' if self.same_answers else 'DIFFERENTLY'}")
        return "\n".join(lines)


def _cells(found: Score) -> str:
    return f"{found.colour:>9.1%}{found.shape:>9.1%}{found.box_iou:>9.2f}"


def run(workdir: Path, pictures_to_train: int = TO_LEARN) -> AdapterScores:
    """Train an adapter on the demo's model in `workdir`, and compare answers. Without a model, the demo runs first.

    Raises:
        FileNotFoundError: no vocabulary (extra `[demo]`).
        ImportError: no matplotlib (the same).
    """
    pictures.require_matplotlib()
    workdir = workdir.resolve()
    if not checkpoints(workdir):
        demo.run(workdir)
    base, folder, start = checkpoints(workdir)[-1], workdir / "lora", time.perf_counter()
    demo._quiet()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qwen.tiktoken").write_bytes((workdir / "qwen.tiktoken").read_bytes())
    [new] = shapes.NEW_COLOURS
    print(f"1. Drawing {pictures_to_train} pictures, half of them {new}, which the model in {workdir} does not know")
    colours = [*shapes.COLOURS, *[new] * len(shapes.COLOURS)]
    shapes.write_dataset(folder / "train", pictures_to_train, SEED, colours=colours)
    asked = shapes.write_dataset(folder / "test", HELD_OUT, SEED + 1, shapes.TOPICS, [new])
    old = shapes.write_dataset(folder / "old", HELD_OUT, SEED + 2, shapes.TOPICS)
    records, old_records = (json.loads(file.read_text(encoding="utf-8")) for file in (asked, old))

    print("2. Training an adapter, with yaml/finetune_qwenvl_tiny_lora.yaml")
    demo._yaml("finetune_qwenvl_tiny", folder)  # which it is based on
    recipe = _with(demo._yaml("finetune_qwenvl_tiny_lora", folder), load_checkpoint=str(base))
    demo._train(recipe, folder)
    adapter = max((folder / "output/adapter").glob("step_*"), key=lambda path: int(path.name.partition("_")[2]))
    size = sum(file.stat().st_size for file in adapter.iterdir())

    print("3. Asking base, adapter and merged weights about new pictures")
    merged = _merge(base, adapter, recipe, folder)
    plain = demo._yaml("predict_qwenvl_tiny", folder)
    answers = {"base": demo._predict(plain, folder, base, records)}
    answers["merged"] = demo._predict(plain, folder, merged, records)
    beside = _with(plain, adapter=str(adapter))
    both = demo._predict(beside, folder, base, [*records, *old_records])
    answers["adapter"] = both[: len(records)]
    result = AdapterScores(
        *(_score(records, answers[name]) for name in ("base", "adapter", "merged")),
        old_colours=_score(old_records, both[len(records) :]),
        same_answers=answers["adapter"] == answers["merged"],
    )
    for index, record in enumerate(records[:SHOWN]):
        print(f"\n{record['text']} ({record['answer']})")
        for name in ("base", "adapter", "merged"):
            print(f"   {name:<9}{answers[name][index]}")
    print(f"\n{result}\n{'PASSED' if result.passed else 'MISSED'} after {time.perf_counter() - start:.0f} s\n")
    print(
        f"adapter, in peft's format   {adapter} ({size / 1000:.0f} kB)\n"
        f"merged weights              {merged}\n\n"
        "The same with the script of a MindFormers checkout:\n"
        f"  python run_mindformer.py --config {recipe}\n"
        f"  mindformers-qwenvl convert-weight --input_path {base} --config {recipe} --adapter {adapter} \\\n"
        f"      --output_path {merged}"
    )
    return result


def _score(records: list[dict[str, Any]], answers: list[str]) -> Score:
    return score(records, [mark(record, answer) for record, answer in zip(records, answers, strict=True)])


def checkpoints(workdir: Path) -> list[Path]:
    """The checkpoints of the demo in `workdir`, the latest last."""
    files = (workdir / "output/checkpoint").rglob("*.safetensors") if (workdir / "output").is_dir() else []
    return sorted(files, key=lambda path: path.stat().st_mtime)


def _with(file: Path, **values: Any) -> Path:
    """Set these keys at the top of the YAML, in place."""
    file.write_text(dump({**read_file(file), **values}), encoding="utf-8")
    return file


def _merge(base: Path, adapter: Path, recipe: Path, folder: Path) -> Path:
    """What `convert-weight --adapter` does."""
    original = folder / "original"
    original.mkdir(exist_ok=True)
    write_companions(TrainedModel(recipe), original)
    merged = folder / "merged.ckpt"
    convert(base, merged, config=original, overlay=Merging(adapter))
    return merged
