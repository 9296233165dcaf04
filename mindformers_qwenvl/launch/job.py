"""One run: the YAML with its changes, and the calls of MindFormers' Trainer that run_mindformer.py makes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers_qwenvl import recipes
from mindformers_qwenvl.checks import LAYOUT, printable
from mindformers_qwenvl.config.yaml_keys import warnings_of
from mindformers_qwenvl.launch.cause import explain
from mindformers_qwenvl.launch.options import RUN_MODES, input_data, settings
from mindformers_qwenvl.launch.quiet import Screen

__all__ = ["Job", "read", "work"]

TRAINING = ("train", "finetune")
PREDICTION = ("predict", "predict_with_train_model")


@dataclass(frozen=True)
class Job:
    """A run whose YAML and options have been read, and checked as far as possible without importing the host."""

    yaml: Path
    run_mode: str
    output_dir: str
    changes: Mapping[str, Any]  # key -> value: options, then --set
    content: Mapping[str, Any] = field(repr=False)  # of the YAML, with --set
    given: Mapping[str, Any] = field(repr=False)  # the options
    input_data: Any = None


def read(yaml: Path, given: Mapping[str, Any], changes: Sequence[str] = ()) -> Job:
    """Read the YAML and the changes of the command line. MindFormers is not imported.

    Args:
        yaml: a YAML, or the name of one that comes with this package.
        given: options of run_mindformer.py by name; None for those that were not given.
        changes: such as `runner_config.epochs=2`; they take precedence over `given`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the YAML cannot be opened.
        ValueError: it is not a YAML with sections, a change is malformed, there is no run_mode, or options for
            prediction contradict each other.
    """
    path = recipes.find(yaml)
    content = recipes.read(path)
    found = settings(given, content)
    for change in changes:
        recipes.apply_changes(content, [change])  # raises if it is malformed
        found[recipes.key_of(change)] = _value(content, recipes.key_of(change))
    run_mode = found.get("run_mode", content.get("run_mode"))
    if run_mode not in RUN_MODES:
        raise ValueError(f"run_mode: one of {', '.join(RUN_MODES)} is expected, got {run_mode!r}; see --run_mode")
    questions = None
    if run_mode in PREDICTION:
        questions = input_data(given.get("predict_data"), given.get("modal_type"))
    elif given.get("predict_data") is not None:
        raise ValueError(f"--predict_data is for prediction, but run_mode is {run_mode}; add --run_mode predict")
    output_dir = found.get("output_dir", content.get("output_dir")) or "./output"
    return Job(path, run_mode, str(output_dir), found, content, dict(given), questions)


def _value(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def work(job: Job, screen: Screen) -> int:
    """Carry out the job. Returns 0, or 1 after an error; its cause is shown first."""
    try:
        for line in warnings_of(job.yaml, job.content):
            screen.say(line)
        screen.say(f"{job.run_mode}: {job.yaml}" + (f"; the log of MindFormers: {screen.log}" if screen.log else ""))
        _carry_out(job, _config(job), screen)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)  # to the log, or with --verbose to the screen
        _report(error, screen)
        return 1
    return 0


def _config(job: Job) -> Any:
    from mindformers.tools.register import MindFormerConfig

    register_path = job.given.get("register_path")
    if register_path is not None:  # read by MindFormers for `auto_register:` keys
        os.environ["REGISTER_PATH"] = str(Path(register_path).absolute())
        sys.path.append(os.environ["REGISTER_PATH"])
    mode = {"run_mode": job.changes["run_mode"]} if "run_mode" in job.changes else {}
    config = MindFormerConfig(str(job.yaml.absolute()), **mode)
    config.merge_from_dict(dict(job.changes))
    return config


def _carry_out(job: Job, config: Any, screen: Screen) -> None:
    from mindformers.core.context import build_context
    from mindformers.trainer import Trainer

    from mindformers_qwenvl.host.moved import set_output_path

    set_output_path(config.output_dir)
    build_context(config)
    if job.run_mode in TRAINING:
        _train(Trainer, config, screen)
    elif job.run_mode == "eval":
        trainer = Trainer(config)
        trainer.evaluate(eval_checkpoint=config.load_checkpoint)
        if screen.shows:  # the host's Trainer does not return what the task's trainer returns
            for line in getattr(trainer.trainer, "findings", ()):
                print(line, file=screen.out, flush=True)
    else:
        answers = Trainer(config).predict(
            predict_checkpoint=config.load_checkpoint,
            input_data=job.input_data if job.input_data is not None else config.input_data,
            batch_size=config.predict_batch_size,
            adapter_id=job.given.get("adapter_id"),
        )
        if screen.shows:
            for answer in answers if isinstance(answers, list) else [answers]:
                print(answer, file=screen.out, flush=True)


def _train(trainer: Any, config: Any, screen: Screen) -> None:
    from mindformers_qwenvl.launch.progress import Progress

    progress = Progress(screen)
    try:
        trainer(config, callbacks=progress).train()
    finally:
        progress.close()
    if progress.reports() and progress.last is not None:
        first, last = progress.first, progress.last
        losses = f", loss {first['loss']:.4f} to {last['loss']:.4f}" if last["loss"] is not None else ""
        screen.say(f"done: steps {first['step']} to {last['step']}{losses}; results are in {config.output_dir}")


def _report(error: BaseException, screen: Screen) -> None:
    """Report an error in every process: under msrun each has its own log, and when one fails, the others do, too."""
    first, *rest = explain(error)
    print(f"mindformers-qwenvl run: {printable(first, keep=LAYOUT)}", file=screen.err)
    for line in rest:
        print(f"  {printable(line, keep=LAYOUT)}", file=screen.err)
    if screen.log:
        print(f"  the whole traceback is at the end of {screen.log} (--verbose shows everything)", file=screen.err)
    screen.err.flush()
