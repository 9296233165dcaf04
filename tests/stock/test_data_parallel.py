"""Training with two processes of msrun on a CPU, `parallel_mode: 0`, through the stock Trainer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.support.annotation_files import colour_records, write_list
from tests.support.cluster import Job, finished
from tests.support.small_runs import training

EPOCHS, STEPS = 4, 3  # of 14 samples, 4 a step
ANSWERS = ["Red", "A very light green, as of grass in spring", "No", "Grey, with a lot of little dots", "It is white"]
SAVED = "output/checkpoint"
# As in the 9.6B recipes and by default; finetune_qwenvl_tiny.yaml has the mean. To weighed cards it is the same.
SUM_OF_CARDS = {"parallel.gradients_mean": False}


def records() -> list[dict]:
    """Answers of different lengths: the cards of a step differ in label tokens."""
    return colour_records(ANSWERS[number * number % 5] * (1 + number % 2) for number in range(14))


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    return write_list(tmp_path_factory.mktemp("samples") / "train.json", records())


def settings(samples: Path, workers: int, *, form: str = "ckpt", each: int = 2, once: bool = False, **more) -> dict:
    """Four samples a step; a checkpoint in the format `form` every `each` steps, `once`: without redundancy."""
    checkpoints = {"type": "CheckpointMonitor", "prefix": "tiny", "save_checkpoint_steps": each}
    checkpoints |= {"checkpoint_format": form, "keep_checkpoint_max": 3, "remove_redundancy": once}
    return training(
        samples,
        **{
            "runner_config.batch_size": 4 // workers,
            "runner_config.epochs": EPOCHS,
            "lr_schedule.total_steps": EPOCHS * STEPS,
            "lr_schedule.warmup_steps": 2,
            "load_ckpt_format": form,
            "remove_redundancy": once,
            "callbacks": [{"type": "QwenVLMonitor", "per_print_times": 0}, {"type": "SeenSamples"}, checkpoints],
            **more,
        },
    )


@pytest.fixture(scope="module")
def uninterrupted(samples, tmp_path_factory) -> tuple[Job, Job]:
    """One process, and two workers with the same batches, at the same time."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with (
        Job(folder / "one", settings(samples, 1, form="safetensors"), workers=1) as one,
        Job(folder / "two", settings(samples, 2, each=STEPS * EPOCHS, **SUM_OF_CARDS)) as two,
    ):
        for job in (one, two):
            assert job.end() == 0, job.printed()[-6000:]
    return one, two


@pytest.fixture(scope="module")
def one(uninterrupted) -> Job:
    return uninterrupted[0]


@pytest.fixture(scope="module")
def two(uninterrupted) -> Job:
    return uninterrupted[1]


def numbers(job: Job, rank: int = 0) -> np.ndarray:
    return np.array(job.rows(rank), np.float64)


def assert_the_run_of_one(job: Job, one: Job) -> None:
    """Losses and gradients of the whole batch on each card, and its samples shared out."""
    expected = numbers(one)
    assert expected.shape == (EPOCHS * STEPS, 5)
    for rank in range(job.workers):
        found = numbers(job, rank)
        np.testing.assert_array_equal(found[:, :2], expected[:, :2])  # step, epoch
        np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=1e-5)  # loss, learning rate, gradient norm
    assert expected[-1, 2] < expected[0, 2]
    cards = [job.seen(rank) for rank in range(job.workers)]
    for step, batch in enumerate(one.seen()):
        # Sample k of a batch goes to card k % cards.
        dealt = [batch[rank :: job.workers] for rank in range(job.workers)]
        assert [card[step] for card in cards] == dealt, step


@pytest.mark.slow  # three trainings
def test_two_workers_are_one_with_the_same_batches(one, two):
    assert_the_run_of_one(two, one)
    epochs = [[sample for batch in one.seen()[first : first + STEPS] for sample in batch] for first in range(0, 12, 3)]
    for epoch in epochs:
        assert len(set(epoch)) == 12  # none twice; the 13th and 14th of the order are no batch
    assert len(set(map(tuple, epochs))) == EPOCHS
    # Each worker has saved the whole state of the last step.
    assert sorted(file.name for file in (two.folder / SAVED).glob("*/*.ckpt")) == [
        f"tiny_rank_{rank}-{EPOCHS}_{STEPS}.ckpt" for rank in range(2)
    ]


@pytest.mark.slow
def test_four_workers_are_one_with_the_same_batches(samples, one, tmp_path):
    assert_the_run_of_one(finished(tmp_path, settings(samples, 4, each=99), workers=4), one)


@pytest.mark.slow
def test_cards_weighed_alike_are_the_stock_train_step(samples, one, tmp_path):
    """The mean of the cards' own means, which is another one: what the original's DistributedDataParallel takes."""
    alike = {"runner_wrapper.weigh_cards": False, "runner_config.epochs": 1, "lr_schedule.learning_rate": 0.0}
    of_cards = finished(tmp_path / "alike", settings(samples, 2, each=99, **alike, **{"lr_schedule.lr_end": 0.0}))
    first, second = numbers(of_cards, 0), numbers(of_cards, 1)
    assert np.abs(first[:, 2] - second[:, 2]).min() > 1e-3  # the losses are each card's own
    np.testing.assert_array_equal(first[:, 4], second[:, 4])  # the gradients are shared
    assert abs(first[0, 4] / numbers(one)[0, 4] - 1) > 1e-3


# ---- killed, and resumed


def killed(folder: Path, given: dict, workers: int = 2) -> tuple[Job, int]:
    """A job whose processes were all killed -9 after a random step, and the step."""
    after = random.randint(3, 7)
    with Job(folder, {**given, "runner_config.epochs": 500}, workers) as job:
        job.wait_until(lambda: len(job.rows()) >= after)
        if workers > 1:
            job.kill(*range(workers))
    return job, after


def resumed(folder: Path, from_folder: Path, given: dict, workers: int = 2) -> Job:
    more = {"load_checkpoint": str(from_folder / SAVED), "resume_training": True}
    return finished(folder, {**given, **more}, workers)


def assert_goes_on(job: Job, uninterrupted: Job, killed_after: int, exactly: bool = True) -> None:
    """From the last checkpoint, one in two steps, that all processes had; identical, digit for digit."""
    for rank in range(job.workers):
        rows, expected = job.rows(rank), uninterrupted.rows(rank if uninterrupted.workers > 1 else 0)
        first = int(rows[0][0]) - 1
        # The steps of a checkpoint or two may have passed while it was killed, or been lost.
        assert 2 <= first <= killed_after + 6, rows
        if exactly:
            assert rows == expected[first:], killed_after
        np.testing.assert_allclose(np.array(rows, float), np.array(expected[first:], float), rtol=1e-5)
        if job.workers == uninterrupted.workers:
            assert job.seen(rank) == uninterrupted.seen(rank)[first:]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "once"), [("ckpt", False), ("safetensors", False), ("safetensors", True)])
def test_two_killed_workers_go_on_as_if_nothing_had_been(samples, two, tmp_path, form, once):
    given = settings(samples, 2, form=form, once=once)
    before, after = killed(tmp_path / "killed", given)
    if once:
        assert_saved_once(before.folder / SAVED)
    assert_goes_on(resumed(tmp_path / "resumed", before.folder, given), two, after)


def assert_saved_once(folder: Path) -> None:
    """Each weight and moment is in the files of one rank; the numbers to resume from in those of both."""
    (first,) = sorted(folder.glob("rank_0/*-1_2.safetensors"))
    names = []
    for rank in range(2):
        with safe_open(folder / f"rank_{rank}" / first.name.replace("rank_0", f"rank_{rank}"), framework="np") as file:
            names.append(set(file.keys()))
    assert names[0] & names[1] == {"epoch_num", "step_num", "global_step", "loss_scale", "global_batch_size"}
    weights = {name for name in names[0] | names[1] if name.startswith(("llm_model.", "vision_encoder."))}
    moments = {name for name in names[0] | names[1] if name.startswith("adam_m.")}
    assert len(weights) == 73
    assert {f"adam_m.{name}" for name in weights} >= moments and len(moments) > 60
    assert len(names[0] - names[1]) > 80 and len(names[1] - names[0]) > 80


@pytest.mark.slow
def test_one_killed_process_goes_on_from_safetensors(samples, one, tmp_path):
    given = settings(samples, 1, form="safetensors")
    before, after = killed(tmp_path / "killed", given, workers=1)
    assert_goes_on(resumed(tmp_path / "resumed", before.folder, given, workers=1), one, after)
    # One of them may be named; and the weights alone be taken from a file.
    kept = sorted((before.folder / SAVED / "rank_0").glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    epoch, step = map(int, kept[0].stem.rpartition("-")[2].split("_"))
    named = {**given, "resume_training": kept[0].name, "load_checkpoint": str(before.folder / SAVED)}
    job = finished(tmp_path / "named", named, workers=1)
    assert job.rows() == one.rows()[(epoch - 1) * STEPS + step :]
    job = finished(tmp_path / "weights", {**given, "load_checkpoint": str(kept[-1])}, workers=1)
    assert numbers(job)[0, 0] == 1 and job.seen() == one.seen()
    assert numbers(job)[0, 2] < 0.8 * numbers(one)[0, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "form", "once"),
    [
        (1, 2, "ckpt", False),
        (2, 1, "safetensors", True),
        (2, 4, "safetensors", False),
        (2, 4, "safetensors", True),
        (4, 2, "ckpt", False),
        (4, 2, "safetensors", True),
    ],
)
def test_another_number_of_processes_goes_on(samples, one, tmp_path, before, after, form, once):
    """Whole files or parts: batches, losses and gradients are those of one process that was never stopped."""
    given = settings(samples, before, form=form, once=once, each=4, **{"runner_config.epochs": 2})
    job = finished(tmp_path / "before", given, before)
    # 6 of 12 steps; CheckpointMonitor saves behind the last one too.
    job = resumed(tmp_path / "after", job.folder, settings(samples, after, form=form, once=once), after)
    expected = numbers(one)[6:]
    for rank in range(after):
        np.testing.assert_array_equal(numbers(job, rank)[:, :2], expected[:, :2])
        np.testing.assert_allclose(numbers(job, rank)[:, 2:4], expected[:, 2:4], rtol=1e-6)  # loss, learning rate
        np.testing.assert_allclose(numbers(job, rank)[:, 4], expected[:, 4], rtol=1e-5)
        assert job.seen(rank) == [batch[rank::after] for batch in one.seen()[6:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "form", "once"),
    [((1, 2, 2, 1), "ckpt", False), ((2, 1, 1, 2), "ckpt", False), ((1, 2, 2, 1), "safetensors", True)],
)
def test_one_folder_for_every_number_of_processes(samples, one, tmp_path, counts, form, once):
    """An epoch each. The files of ranks that a run did not have are of an earlier one, and lead no later one back."""
    for epochs, workers in enumerate(counts, start=1):
        given = settings(samples, workers, form=form, once=once, each=STEPS, **{"runner_config.epochs": epochs})
        more = {"load_checkpoint": "output/checkpoint", "resume_training": True} if epochs > 1 else {}
        job = finished(tmp_path, {**given, **more}, workers)
        assert len(job.rows()) == epochs * STEPS
    np.testing.assert_array_equal(numbers(job)[:, :2], numbers(one)[:, :2])
    np.testing.assert_allclose(numbers(job)[:, 2:], numbers(one)[:, 2:], rtol=1e-5)


@pytest.mark.slow
def test_parts_without_those_of_another_process_are_an_error(samples, tmp_path):
    given = settings(samples, 2, form="safetensors", once=True, each=99, **{"runner_config.epochs": 1})
    two = finished(tmp_path / "two", given)
    shutil.rmtree(two.folder / SAVED / "rank_1")
    more = {"load_checkpoint": str(two.folder / SAVED), "resume_training": True}
    with Job(tmp_path / "refused", {**settings(samples, 1, form="safetensors"), **more}, workers=1) as job:
        assert job.end() != 0
    assert "The files of all processes that saved the checkpoint are needed" in job.printed()


# ---- the host's newer section `checkpoint:`


@pytest.mark.slow
def test_the_newer_section_saves_once_and_goes_on(samples, one, tmp_path):
    """Two processes save as one does, and two and one go on from that."""
    from mindformers.trainer import utils

    if not hasattr(utils, "convert_checkpoint_config"):
        pytest.skip("this MindFormers (1.7, 1.8) has no section `checkpoint:`")
    given = settings(samples, 2, form="safetensors")
    given["callbacks"] = [*given["callbacks"][:-1], {"type": "CheckpointMonitor", "checkpoint_format": "safetensors"}]
    section = {
        "save_path": "./output/checkpoint",
        "save_interleaved_steps": 4,
        "no_save_optim": False,
        "prefix": "tiny",
    }
    job = finished(tmp_path / "before", {**given, "checkpoint": section, "runner_config.epochs": 2})
    saved = job.folder / SAVED
    assert sorted(file.name for file in saved.glob("iteration_00000006/*")) == [
        "common.json",
        "tiny-model-0000000-0000001.safetensors",
        "tiny-opt-0000000-0000001.safetensors",
    ]
    section |= {"load_path": str(saved), "no_load_optim": False}
    for workers in (2, 1):
        more = {"checkpoint": section, "runner_config.batch_size": 4 // workers}
        job = finished(tmp_path / f"after_{workers}", {**given, **more}, workers)
        for rank in range(workers):
            np.testing.assert_allclose(numbers(job, rank)[:, :4], numbers(one)[6:, :4], rtol=1e-6)
            assert job.seen(rank) == [batch[rank::workers] for batch in one.seen()[6:]]


# ---- a worker that dies


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_ends_the_job_and_is_named(samples, tmp_path, rank):
    given = settings(samples, 2, each=99, **{"runner_config.epochs": 2000})
    with Job(tmp_path, given, node_timeout=60) as job:
        job.wait_until(lambda: len(job.rows(1 - rank)) >= 2)
        (pid,) = job.kill(rank)
        assert job.end() != 0
    printed = job.printed()
    assert f"Worker process {pid} exit with exception. Error code: -9" in printed, printed[-6000:]
    assert "kill all other workers" in printed
    assert "Distributed job exited with exception. Please check logs" in printed


@pytest.mark.slow
def test_a_worker_with_a_broken_sample_ends_the_job_and_names_it(tmp_path):
    broken = records()
    del broken[5]["conversations"][1]["value"]
    samples = write_list(tmp_path / "train.json", broken)
    with Job(tmp_path / "run", settings(samples, 2, each=99), node_timeout=60) as job:
        assert job.end() != 0
    printed = job.printed()
    assert "sample 5, id 'sample_5', turn 1" in printed, printed[-6000:]
    assert "Distributed job exited with exception. Please check logs" in printed
