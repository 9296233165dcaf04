"""The demo from end to end: draw pictures, fine-tune and predict with MindFormers' Trainer, score, draw the results."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindformers_qwenvl.demo import pictures, shapes
from mindformers_qwenvl.demo.score import Mark, Score, mark, score
from mindformers_qwenvl.recipes import yaml_dir
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary

__all__ = ["TRAINING_PICTURES", "run"]

RANKS = 800  # of the vocabulary, to keep the head small; its first N byte-pair ranks are a vocabulary, too
TRAINING_PICTURES, HELD_OUT, SEED = 4000, 150, 7


def run(workdir: Path, pictures_to_train: int = TRAINING_PICTURES) -> Score:
    """Run the demo in `workdir` and print what it does. Returns the score on the held-out pictures.

    Raises:
        FileNotFoundError: there is no vocabulary (extra `[demo]`).
        ImportError: matplotlib is not installed (the same extra).
    """
    pictures.require_matplotlib()
    workdir = workdir.resolve()
    start = time.perf_counter()
    _quiet()
    workdir.mkdir(parents=True, exist_ok=True)
    ranks = find_vocabulary().read_bytes().splitlines(keepends=True)[:RANKS]
    (workdir / "qwen.tiktoken").write_bytes(b"".join(ranks))
    print(f"1. Drawing {pictures_to_train} pictures to learn from and {HELD_OUT} to ask about, in {workdir}")
    shapes.write_dataset(workdir / "train", pictures_to_train, SEED)
    held_out = json.loads(shapes.write_dataset(workdir / "test", HELD_OUT, SEED + 1, shapes.TOPICS).read_text())

    print("2. Fine-tuning a Qwen-VL of 0.9 million parameters, with yaml/finetune_qwenvl_tiny.yaml")
    losses = _train(_yaml("finetune_qwenvl_tiny", workdir), workdir)
    checkpoint = max((workdir / "output/checkpoint").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)

    print("3. Asking it about pictures it has not seen, with yaml/predict_qwenvl_tiny.yaml")
    answers = _predict(_yaml("predict_qwenvl_tiny", workdir), workdir, checkpoint, held_out)
    marks = [mark(record, answer) for record, answer in zip(held_out, answers, strict=True)]
    result = score(held_out, marks)

    pictures.save_loss_curve(losses, workdir / "loss.png")
    pictures.save_answers(held_out, answers, marks, workdir / "answers.png")
    _write_answers(held_out, answers, marks, workdir / "answers.jsonl")
    print(f"\n{result}\n{'PASSED' if result.passed else 'MISSED'} after {time.perf_counter() - start:.0f} s\n")
    example = held_out[2]
    print(
        f"loss curve                   {workdir / 'loss.png'}\n"
        f"pictures with answers        {workdir / 'answers.png'}\n"
        f"all {len(answers)} answers, JSON Lines  {workdir / 'answers.jsonl'}\n"
        f"checkpoint                   {checkpoint}\n\n"
        "The same with the script of a MindFormers checkout:\n"
        f"  python run_mindformer.py --config {workdir / 'finetune_qwenvl_tiny.yaml'}\n"
        f"  python run_mindformer.py --config {workdir / 'predict_qwenvl_tiny.yaml'} \\\n"
        f"      --load_checkpoint {checkpoint} \\\n"
        f"      --predict_data {example['image']} {example['text']!r} --modal_type image text"
    )
    return result


def _write_answers(records: list[dict[str, Any]], answers: list[str], marks: list[Mark], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record, answer, found in zip(records, answers, marks, strict=True):
            line = {"image": record["image"], "question": record["text"], "answer": answer}
            line |= {"expected": record["answer"], "right": found.right, "iou": found.box_iou}
            file.write(json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")


def _quiet() -> None:
    """Keep MindSpore's warnings and MindFormers' log off the screen; the log also goes to output/log."""
    import logging

    os.environ.setdefault("GLOG_v", "3")
    logging.disable(logging.INFO)


def _yaml(name: str, workdir: Path) -> Path:
    """The packaged YAML with the paths of this demo, written to `workdir`. Its comments are kept."""
    text = (yaml_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    for placeholder, path in (
        ("annotation_file: 'train.json'", workdir / "train.json"),
        ("dataset_dir: ''", workdir),
        ("vocab_file: 'qwen.tiktoken'", workdir / "qwen.tiktoken"),
        ("output_dir: './output'", workdir / "output"),
    ):
        text = text.replace(placeholder, f"{placeholder.partition(':')[0]}: {json.dumps(str(path))}")
    target = workdir / f"{name}.yaml"
    target.write_text(text, encoding="utf-8")
    return target


@contextlib.contextmanager
def _host(workdir: Path) -> Iterator[None]:
    """The host writes to the current folder and prints whole configurations: send both to `workdir`."""
    before = Path.cwd()
    os.chdir(workdir)
    # Not closed: the host's logger keeps the stream that it finds at its first message.
    log = (workdir / "mindformers.log").open("a", encoding="utf-8")
    try:
        with contextlib.redirect_stdout(log):
            yield
    finally:
        log.flush()
        os.chdir(before)


def _trainer(yaml_file: Path, **changes: Any) -> Any:
    """What run_mindformer.py does with `--config`."""
    from mindformers.core.context import build_context
    from mindformers.tools.register import MindFormerConfig
    from mindformers.trainer import Trainer

    from mindformers_qwenvl.host.moved import set_output_path

    config = MindFormerConfig(str(yaml_file))
    set_output_path(config.output_dir)
    build_context(config)
    return Trainer(config, **changes)


def _train(yaml_file: Path, workdir: Path) -> list[float]:
    """Train; returns the loss of each step."""
    from mindspore import Callback
    from tqdm import tqdm

    class Progress(Callback):
        def __init__(self):
            super().__init__()
            self.losses: list[float] = []
            self.bar = tqdm(desc="   compiling", unit="step", file=sys.stderr, mininterval=0.5)

        def on_train_step_end(self, run_context):
            params = run_context.original_args()
            outputs = params.net_outputs
            self.losses.append((outputs[0] if isinstance(outputs, tuple) else outputs).asnumpy().item())
            if len(self.losses) == 1:
                self.bar.reset(total=params.batch_num * params.epoch_num)
                self.bar.set_description("   training")
            self.bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
            self.bar.update(1)

    progress = Progress()
    try:
        with _host(workdir):
            _trainer(yaml_file, callbacks=progress).train()
    finally:
        progress.bar.close()
    return progress.losses


def _predict(yaml_file: Path, workdir: Path, checkpoint: Path, records: list[dict[str, Any]]) -> list[str]:
    queries = [[{"image": record["image"]}, {"text": record["text"]}] for record in records]
    with _host(workdir):
        return _trainer(yaml_file).predict(predict_checkpoint=str(checkpoint), input_data=queries)
