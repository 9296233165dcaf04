"""Conversion, opening, checking and feeding of data, each beside its yardstick.

    python -m tests.bench.bench_data [--conversations 150000] [--samples 1000000] [--pictures 600] [--workers 2]

Limits: 150 thousand conversations converted in 30 s, in memory that a file four times as long does not raise; a million
samples opened in 10 s and 200 MB; the training pipeline of one worker at 90% of the rate at which Pillow alone decodes
and resizes the same pictures in one thread; `check-data` at 80% of the rate of Pillow with as many processes. Pictures
are JPEG of 640 x 480, resized to 448 x 448. All data is made in a temporary folder. What runs against each other runs
in turn, and the medians of the ratios count. Exit code 1 if a limit is missed.

"One worker" is `num_parallel_workers: 1`: a thread that decodes and resizes. MindSpore has threads beside it that read,
normalise and batch, so the rate needs a second processor; the line also says what part of the pipeline's processor time
Pillow alone would take. With `--workers` on as many processors these threads have none for themselves: that line, and
the one of MindFormers' own transforms, have no limit. Passes of a second through the running pipeline and through
Pillow are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from tests.bench.host import quiet

ROOT = Path(__file__).parents[2]
YAML = ROOT / "yaml" / "finetune_qwenvl_9.6b.yaml"
SIZE, BATCH, ROUNDS = 448, 4, 5
PASS, PASSES, STARTING = 200, 15, 8  # samples of a pass through the pipeline, passes; batches before the clock starts
CONVERT_SECONDS, OPEN_SECONDS, OPEN_MEMORY, PIPELINE, CHECK = 30.0, 10.0, 200.0, 0.9, 0.8
TEXT = "the picture shows people standing near a large building with two dogs in green fields under blue sky"
WORDS = TEXT.split()

OPEN = """
import random, resource, sys, time
import numpy
from mindformers_qwenvl.datasets.annotations import AnnotationFile
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before = memory()
begin = time.perf_counter()
file = AnnotationFile(sys.argv[1], index_dir=sys.argv[2] or None)
opened = time.perf_counter() - begin
begin = time.perf_counter()
for _ in range(2000):
    file.sample(random.randrange(len(file)))
read = (time.perf_counter() - begin) / 2000
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print("RESULT", len(file), opened, read, before, memory(), peak)
"""


def sentence(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[number] for number in rng.integers(0, len(WORDS), count))


def write_list(path: Path, records: Iterable[str]) -> Path:
    """Records, JSON texts, as a list."""
    with path.open("w") as file:
        for number, record in enumerate(records):
            file.write("[" * (number == 0) + ", " * (number > 0) + record)
        file.write("]")
    return path


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    """(seconds, peak MB, what it prints) of a process."""
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        output.seek(0)
        if status:
            raise RuntimeError(f"{command} ended with status {status}: {output.read()[-2000:]}")
        return seconds, usage.ru_maxrss / 1e3, output.read()


def verdict(what: str, value: float, limit: float, *, at_least: bool = False, unit: str = "") -> bool:
    good = value >= limit if at_least else value <= limit
    word = "at least" if at_least else "at most"
    print(f"  {'ok    ' if good else 'MISSED'} {what}: {value:.2f}{unit}, {word} {limit:.2f}{unit}", flush=True)
    return good


# ---------------------------------------------------------------- conversion


def llava(count: int, rng: np.random.Generator) -> Iterable[str]:
    """Records like those of LLaVA-Instruct, about 1.2 KB each."""
    texts = [sentence(rng, 150) for _ in range(200)]
    for number in range(count):
        question = "<image>\nDescribe the image." if number % 2 else "What is shown?\n<image>"
        turns = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f'{texts[number % 200]} "{number}"\n'},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": texts[number % 199][:300]},
        ]
        yield json.dumps({"id": f"{number:012d}", "image": f"{number % 1000:012d}.jpg", "conversations": turns})


def convert(folder: Path, count: int, rng: np.random.Generator) -> bool:
    pictures = folder / "coco" / "train2014"
    pictures.mkdir(parents=True)
    for number in range(1000):
        (pictures / f"COCO_train2014_{number:012d}.jpg").touch()
    peaks = []
    for part in (count // 4, count):
        source = write_list(folder / "llava.json", llava(part, rng))
        words = ["--data_path", str(source), "--image_location", "coco", "--output_path", "converted.json", "--quiet"]
        command = [sys.executable, "-m", "mindformers_qwenvl", "convert-data", *words]
        seconds, peak, _ = timed(command, folder)
        peaks.append(peak)
        size = source.stat().st_size / 1e6
        print(
            f"convert-data: {part:,} conversations, {size:.0f} MB: {seconds:.1f} s, {part / seconds:,.0f}/s, "
            f"{size / seconds:.0f} MB/s, peak {peak:.0f} MB"
        )
    good = verdict("seconds for all of them", seconds, CONVERT_SECONDS, unit=" s")
    return verdict("memory, against a quarter of the file", peaks[1] / peaks[0], 1.2) and good


# ---------------------------------------------------------------- opening


def open_samples(folder: Path, count: int, rng: np.random.Generator) -> bool:
    texts = [json.dumps(sentence(rng, 150)) for _ in range(200)]
    question = json.dumps("Picture 1: <img>train2014/COCO_train2014_000000000001.jpg</img>\nDescribe it.")
    record = '{{"id": "{}", "conversations": [{{"from": "user", "value": {}}}, {{"from": "assistant", "value": {}}}]}}'
    path = write_list(folder / "many.json", (record.format(n, question, texts[n % 200]) for n in range(count)))
    size, good = path.stat().st_size / 1e6, True
    for what, index in (("", ""), (", index written", "index"), (", index there", "index")):
        _, _, printed = timed([sys.executable, "-c", OPEN, str(path), index], folder)
        found, seconds, read, before, after, peak = map(float, printed.split()[1:])
        print(
            f"opening {found:,.0f} samples, {size:.0f} MB{what}: {seconds:.2f} s; {read * 1e6:.0f} us a record; "
            f"memory {before:.0f} -> {after:.0f} MB, peak {peak:.0f} MB"
        )
        good &= verdict("seconds", seconds, OPEN_SECONDS, unit=" s") & verdict("peak", peak, OPEN_MEMORY, unit=" MB")
    path.unlink()
    return good


# ---------------------------------------------------------------- pictures


def draw_pictures(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """JPEG files of 640 x 480, 50 different ones under `count` names."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if number >= 50:
            shutil.copy(paths[number % 50], path)
            continue
        smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(smooth).astype(np.int16) + rng.integers(-12, 13, (480, 640, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def plain(path: Path) -> None:
    """What Pillow alone takes: decode and resize, in the order of the original."""
    with Image.open(path) as image:
        two_calls(image.convert("RGB"))


def two_calls(image: Image.Image) -> Image.Image:
    """Rows, then columns: the original's pixels with every Pillow."""
    return image.resize((SIZE, image.height), Image.Resampling.BICUBIC).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def one_call(image: Image.Image) -> Image.Image:
    """Pillow 12 and newer choose the order of the axes."""
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def resizing(path: Path) -> None:
    """What the second call costs, for a wide and for a tall picture. Pillow 13 takes the cheaper order in one call."""
    with Image.open(path) as opened:
        wide = opened.convert("RGB")
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        rows = []
        for _ in range(ROUNDS * 4):
            seconds = []
            for resize in (one_call, two_calls):
                begin = time.perf_counter()
                for _ in range(10):
                    resize(image)
                seconds.append((time.perf_counter() - begin) / 10)
            rows.append((*seconds, seconds[1] / seconds[0]))
        one, two, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"resizing {image.width} x {image.height}, Pillow {PIL.__version__}: one call {one * 1e3:.1f} ms, "
            f"two calls {two * 1e3:.1f} ms; ratio {ratio:.2f}"
        )


def plain_all(paths: list[Path], threads: int = 1) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(plain, paths))


def write_samples(path: Path, pictures: list[Path], rng: np.random.Generator) -> Path:
    def record(number: int) -> str:
        turns = [
            {"from": "user", "value": f"Picture 1: <img>{pictures[number].name}</img>\nDescribe the image."},
            {"from": "assistant", "value": sentence(rng, 120)},
        ]
        return json.dumps({"id": number, "conversations": turns})

    return write_list(path, map(record, range(len(pictures))))


def race(count: int, yardstick: Callable[[], None], ours: Callable[[], None]) -> tuple[float, float, float, float]:
    """Medians: rates of the yardstick and of ours, the ratio of the rates, the ratio of processor times."""
    rows = []
    for _ in range(ROUNDS):
        times = []
        for call in (yardstick, ours):
            wall, used = time.perf_counter(), _processor()
            call()
            times.append((time.perf_counter() - wall, _processor() - used))
        (plain_wall, plain_used), (wall, used) = times
        rows.append((count / plain_wall, count / wall, plain_wall / wall, plain_used / used))
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))


def _processor() -> float:
    """Seconds of processor time of this process and of those it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _state() -> tuple[float, float, float]:
    """Now, the seconds that all processors have been busy, and those of this process."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, _processor()


def _others(begin: tuple[float, float, float]) -> float:
    """How many processors other processes have kept busy on the average."""
    seconds, busy, own = (now - then for now, then in zip(_state(), begin, strict=True))
    return max(0.0, busy - own) / seconds


def steady(dataset) -> tuple[float, float]:
    """Seconds and processor seconds per sample of one epoch, once the pipeline runs.

    The clock starts when the first batches are out, and stops with the last one: decoding is what the queues behind it
    wait for, so they are as empty at the end as at the start.
    """
    rows = []
    for batch in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
        rows.append((time.perf_counter(), _processor(), len(batch[0])))
    (begin, used, _), *counted = rows[STARTING:]
    samples = sum(size for *_, size in counted)
    return (counted[-1][0] - begin) / samples, (counted[-1][1] - used) / samples


def pipeline(pictures: list[Path], data: Path, workers: int) -> bool:
    quiet()
    from mindformers.dataset.build_dataset import build_dataset
    from mindformers.tools.register import MindFormerConfig

    from mindformers_qwenvl.pictures.images import CLIP_MEAN, CLIP_STD

    stock = [{"type": "BatchToTensor"}, {"type": "BatchNormalize", "mean": CLIP_MEAN, "std": CLIP_STD, "is_hwc": False}]
    logging.disable(logging.WARNING)
    good = True
    stock_name, ours_name = "BatchToTensor + BatchNormalize", "QwenVLBatchNormalize"
    for name, transforms, threads in ((stock_name, stock, 1), (ours_name, None, 1), (ours_name, None, workers)):
        task = MindFormerConfig(str(YAML)).train_dataset_task
        config = task.dataset_config
        config.data_loader.annotation_file = str(data)
        config.modal_to_text_transform.model_transform_template.dataset_dir = str(pictures[0].parent)
        config.data_loader.num_samples = PASS
        config.batch_size, config.num_parallel_workers, config.drop_remainder = BATCH, threads, False
        if transforms:
            config.modal_content_transforms = [MindFormerConfig(**transform) for transform in transforms]
        dataset = build_dataset(task)
        some = pictures[:PASS]
        plain_all(some, threads)  # into the system's cache
        steady(dataset)
        rows, begin = [], _state()
        for _ in range(PASSES):
            wall, used = time.perf_counter(), _processor()
            plain_all(some, threads)
            yardstick = (time.perf_counter() - wall) / PASS, (_processor() - used) / PASS
            rows.append((*yardstick, *steady(dataset)))
        plain_wall, _, wall, _ = (statistics.median(column) for column in zip(*rows, strict=True))
        low, ratio, high = statistics.quantiles([row[0] / row[2] for row in rows], n=4)
        print(
            f"training pipeline, workers: {threads}, {name}: {1 / wall:.0f} samples/s; Pillow decode and resize, in as "
            f"many threads: {1 / plain_wall:.0f}/s; ratio of {PASSES} passes in turn, quartiles {low:.2f} {ratio:.2f} "
            f"{high:.2f}; of its processor time {statistics.median(row[1] / row[3] for row in rows):.2f}; other "
            f"processes kept {_others(begin):.2f} processors busy"
        )
        if transforms is None and threads == 1:
            good = verdict("rate against Pillow", ratio, PIPELINE, at_least=True)
    return good


def check(pictures: list[Path], data: Path, workers: int) -> bool:
    from mindformers_qwenvl.datasets.check.checker import check_file
    from mindformers_qwenvl.datasets.check.job import read_settings

    settings = read_settings(YAML, dataset_dir=str(pictures[0].parent))

    def yardstick() -> None:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            list(pool.map(plain, pictures, chunksize=32))

    def ours() -> None:
        report = check_file(data, settings, workers=workers)
        if report.fails or report.checked != len(pictures):
            raise RuntimeError(str(report))

    rate, found, ratio, processor = race(len(pictures), yardstick, ours)
    print(
        f"check-data, {workers} workers: {found:.0f} samples/s; Pillow decode and resize, {workers} processes: "
        f"{rate:.0f}/s; of its processor time {processor:.2f}"
    )
    return verdict("rate against Pillow", ratio, CHECK, at_least=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=150_000)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="bench_data_") as name:
        folder = Path(name)
        os.chdir(folder)  # importing MindFormers writes ./output
        try:
            good = convert(folder, args.conversations, rng)
            good &= open_samples(folder, args.samples, rng)
            pictures = draw_pictures(folder / "pictures", args.pictures, rng)
            data = write_samples(folder / "train.json", pictures, rng)
            resizing(pictures[0])
            good &= check(pictures, data, args.workers)  # before MindFormers starts threads that a fork would copy
            good &= pipeline(pictures, data, args.workers)
        finally:
            os.chdir(here)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
