"""What the plugin costs: at every start of Python, and on `import mindformers`.

    python tests/bench/bench_startup.py [--starts 400] [--imports 12]

Two throw-away environments, one with this project installed and one without, run in turn; medians are compared. Besides
the difference of two imports of seconds, the load of the plugins is timed by itself inside the process.
Limits: 0.5 ms at start, 60 ms on import. They are held against processor time, which other programs on the machine
disturb least; the time on the clock stands beside it. Exit code 1 if one is exceeded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.installed import Environment, build_wheel, new_environment

START_LIMIT, IMPORT_LIMIT = 0.5, 60.0  # milliseconds

IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import mindformers
print("MS", (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)
"""
LOAD = """
import time, mindformers_qwenvl_boot as boot
load = boot.PluginHook.load
def timed(self):
    wall, cpu = time.perf_counter(), time.thread_time()
    load(self)
    print("MS", (time.perf_counter() - wall) * 1000, (time.thread_time() - cpu) * 1000)
boot.PluginHook.load = timed
import mindformers
"""

Times = tuple[float, float]  # milliseconds on the clock, and of the processor


def start(environment: Environment, folder: Path) -> Times:
    """A process that does nothing."""
    begin = time.perf_counter()
    command = [str(environment.python), "-I", "-c", "pass"]
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, {"LANG": "C.UTF-8"}), 0)
    wall = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def printed(code: str) -> Callable[[Environment, Path], Times]:
    """A process that prints its own times."""

    def run(environment: Environment, folder: Path) -> Times:
        lines = environment.run("-I", "-c", code, cwd=folder).stdout.splitlines()
        wall, cpu = next(line.split()[1:] for line in lines if line.startswith("MS "))
        return float(wall), float(cpu)

    return run


def medians(times: list[Times]) -> Times:
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)


def compare(name: str, run: Callable, bare: Environment, plugged: Environment, folder: Path, count: int) -> Times:
    """Run both in turn, print the medians, give their differences."""
    pairs = [(run(bare, folder), run(plugged, folder)) for _ in range(count)]
    without, with_it = (medians(list(times)) for times in zip(*pairs, strict=True))
    cost = with_it[0] - without[0], with_it[1] - without[1]
    for kind, index in (("processor", 1), ("clock", 0)):
        print(
            f"{name}, {kind}: {without[index]:.2f} ms without, {with_it[index]:.2f} ms with the plugin: "
            f"{cost[index]:+.2f} ms"
        )
    return cost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=400, help="starts of Python in each environment")
    parser.add_argument("--imports", type=int, default=12, help="imports of MindFormers in each environment")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bare = new_environment(folder / "bare")
        plugged = new_environment(folder / "plugged")
        plugged.pip("install", "--no-deps", "--no-index", str(build_wheel(folder)))
        for environment in (bare, plugged):  # fill the file cache, compile
            start(environment, folder)
            printed(IMPORT)(environment, folder)

        started = compare("start of Python", start, bare, plugged, folder, args.starts)[1]
        print(f"  limit {START_LIMIT} ms; medians of {args.starts} runs each, in turn")
        compare("import mindformers", printed(IMPORT), bare, plugged, folder, args.imports)
        wall, loaded = medians([printed(LOAD)(plugged, folder) for _ in range(args.imports)])
        print(f"of it, loading the plugins: {loaded:.2f} ms of the processor, {wall:.2f} ms on the clock")
        print(f"  limit {IMPORT_LIMIT} ms; medians of {args.imports} runs each, in turn")
    return int(started > START_LIMIT or loaded > IMPORT_LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
