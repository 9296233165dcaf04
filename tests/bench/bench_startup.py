"""What the plugin costs: at every start of Python, and on `import mindformers`.

    python tests/bench/bench_startup.py [--starts 400] [--imports 12]

Two throw-away environments, with this project installed and without, run in turn; the medians are compared. The load of
the plugins is also timed inside the process, which is the steadier number of the two on a busy machine.
Limits: 0.5 ms at start, 60 ms on import. Exit code 1 if one is exceeded.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.installed import Environment, build_wheel, new_environment

START_LIMIT, IMPORT_LIMIT = 0.5, 60.0  # milliseconds

IMPORT = """
import time
begin = time.perf_counter()
import mindformers
print("MS", (time.perf_counter() - begin) * 1000)
"""
LOAD = """
import time, mindformers_qwenvl_boot as boot
load = boot.PluginHook.load
def timed(self):
    begin = time.perf_counter()
    load(self)
    print("MS", (time.perf_counter() - begin) * 1000)
boot.PluginHook.load = timed
import mindformers
"""


def start(environment: Environment, folder: Path) -> float:
    """Milliseconds of a process that does nothing."""
    begin = time.perf_counter()
    subprocess.run([environment.python, "-I", "-c", "pass"], cwd=folder, check=True)
    return (time.perf_counter() - begin) * 1000


def printed(environment: Environment, folder: Path, code: str) -> float:
    """Milliseconds that `code` prints."""
    output = environment.run("-I", "-c", code, cwd=folder).stdout
    return next(float(line.split()[1]) for line in output.splitlines() if line.startswith("MS "))


def compare(name: str, without: list[float], with_it: list[float], limit: float) -> float:
    """Print both medians and their difference; give the difference in milliseconds."""
    cost = statistics.median(with_it) - statistics.median(without)
    print(
        f"{name}: {statistics.median(without):.2f} ms without, {statistics.median(with_it):.2f} ms with the plugin: "
        f"{cost:+.2f} ms (limit {limit} ms, {len(without)} runs each, medians)"
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
            printed(environment, folder, IMPORT)

        pairs = [(start(bare, folder), start(plugged, folder)) for _ in range(args.starts)]
        started = compare("start of Python", *map(list, zip(*pairs, strict=True)), START_LIMIT)
        pairs = [(printed(bare, folder, IMPORT), printed(plugged, folder, IMPORT)) for _ in range(args.imports)]
        compare("import mindformers", *map(list, zip(*pairs, strict=True)), IMPORT_LIMIT)
        loads = [printed(plugged, folder, LOAD) for _ in range(max(args.imports // 2, 1))]
        loaded = statistics.median(loads)
        print(f"  of it, loading the plugins: {loaded:.2f} ms (limit {IMPORT_LIMIT} ms, {len(loads)} runs, median)")
    return int(started > START_LIMIT or loaded > IMPORT_LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
