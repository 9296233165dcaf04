"""The host matrix: every supported pair of MindFormers and MindSpore, and every Python, in environments of their own.

    python -m tests.matrix            # make what is missing, run all rows, write docs/hosts.json and the tables
    python -m tests.matrix --rows 1.8,2.1 --checks logits,doors
    python -m tests.matrix --jobs 2          # two rows at a time: each takes one core
    python -m tests.matrix --use 1.8=DIR     # an environment that has the host and the packages of the tests
    python -m tests.matrix --write           # run nothing: write the tables again from docs/hosts.json

An environment is made once, in --environments (default: ~/.cache/mindformers-qwenvl-matrix), about 3.5 GB each. For a
run this package is installed, as a wheel of this checkout, into a folder of links to it: environments stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl import __version__

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "hosts.json"
DOCUMENTS = (ROOT / "docs" / "hosts.md", ROOT / "docs" / "zh" / "hosts.md")
# Page -> link to the table, in its row of this version.
READMES = {
    ROOT / "README.md": "[what ran](docs/hosts.md#what-ran)",
    ROOT / "README_CN.md": "[运行记录](docs/zh/hosts.md)",
}
BEGIN, END = "<!-- matrix: written by tests/matrix.py -->", "<!-- /matrix -->"

# What the tests need beside the host; mindformers-qwenvl[test] without the pair.
TESTS = (
    *("tiktoken", "pillow", "pluggy", "pyyaml", "safetensors", "tqdm", "dashscope<2", "matplotlib", "pytest>=8"),
    *("pytest-xdist", "hypothesis", "fonttools", "hatchling", "editables"),
)
# Of MindFormers 2.1.0, whose own requirements do not resolve: its transformers, pyarrow 26 and hyper-parallel.
OF_2_1 = (
    *("transformers==4.57.1", "pyarrow==23.*", "sentencepiece", "ftfy", "regex", "jieba", "rouge_chinese"),
    *("nltk==3.9.1", "mindpet==1.0.4", "opencv-python-headless", "tokenizers", "astunparse", "numpy<2", "jinja2"),
    *("setproctitle", "tensorboardX", "deprecated", "pybind11", "datasets", "setuptools<82"),
)


@dataclass(frozen=True)
class Row:
    """A pair and a Python. `install`: arguments of pip, one tuple a call."""

    name: str
    mindformers: str
    mindspore: str
    python: str = "3.11"
    install: tuple[tuple[str, ...], ...] = ()

    def commands(self) -> tuple[tuple[str, ...], ...]:
        return self.install or ((f"mindformers=={self.mindformers}", f"mindspore=={self.mindspore}", *TESTS),)


ROWS = (
    Row("1.7", "1.7.0", "2.7.2"),
    Row("1.8", "1.8.0", "2.7.2"),
    Row("1.9", "1.9.0", "2.9.0"),
    Row(
        "2.1", "2.1.0", "2.10.0", install=(("mindspore==2.10.0", *OF_2_1, *TESTS), ("--no-deps", "mindformers==2.1.0"))
    ),
    Row("py3.10", "1.9.0", "2.9.0", "3.10"),
    Row("py3.12", "1.9.0", "2.9.0", "3.12"),
)

# Heading of a column -> the tests that stand for it: files, functions, or single cases of a function. A row runs all of
# its tests in one process, so that they share trainings and compiled networks.
CHECKS: dict[str, tuple[str, ...]] = {
    "discovery": (
        "tests/discovery/test_installed.py::test_a_process_that_never_names_us",
        "tests/discovery/test_installed.py::test_spawned_and_forked_processes",
        "tests/discovery/test_installed.py::test_broken_plugins_only_warn",
        "tests/test_registration.py::test_every_class_is_found_by_its_name",
        "tests/test_registration.py::test_tables_of_tasks_and_names",
        "tests/test_registration.py::test_the_trainer_takes_the_task",
    ),
    "logits": (
        *(
            f"tests/model/test_logits.py::test_logits_of_golden_prompts[{golden}-{prompt}]"
            for golden in ("a56", "b224")
            for prompt in ("text", "one_image", "two_images", "multi_turn", "raw_caption", "image_last")
        ),
        "tests/model/test_logits.py::test_logits_of_a_prompt_alone",
    ),
    "gradients": (
        "tests/model/test_training.py::test_loss_and_gradients[a56-batch0]",
        "tests/model/test_training.py::test_loss_and_gradients[a56-text_only]",
    ),
    "cached generation": (
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-text]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-one_image]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-two_images]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-multi_turn]",
        "tests/model/test_cache.py::test_mixed_batch_answers_as_each_row_alone[a56]",
    ),
    "chat": (
        "tests/chat/test_chat.py::test_golden_prompts_and_greedy_answers",
        "tests/chat/test_chat.py::test_seeds_make_answers_reproducible",
        "tests/chat/test_chat.py::test_rows_of_a_batch_answer_as_they_do_alone",
        "tests/chat/test_chat.py::test_the_hosts_streamers",
    ),
    "train and resume": (
        "tests/stock/test_trainer.py::test_training_learns_and_saves",
        "tests/stock/test_trainer.py::test_resumed_losses_are_those_of_the_uninterrupted_training",
    ),
    "two processes": (
        "tests/stock/test_data_parallel.py::test_two_workers_are_one_with_the_same_batches",
        "tests/stock/test_data_parallel.py::test_two_killed_workers_go_on_as_if_nothing_had_been[safetensors-False]",
    ),
    "predict": (
        "tests/stock/test_trainer.py::test_greedy_ids_are_the_goldens[two_images]",
        "tests/stock/test_trainer.py::test_greedy_ids_of_a_batch_from_the_original_folder[elements]",
    ),
    "convert": (
        "tests/weights/convert/test_convert.py::test_one_file",
        "tests/weights/convert/test_convert.py::test_round_trip_is_byte_identical",
        "tests/weights/convert/test_convert.py::test_our_directory_loads_as_the_original_does",
        "tests/stock/test_trainer.py::test_the_checkpoint_of_a_training_goes_back_to_the_original_layout",
    ),
    "doors": (
        "tests/stock/test_doors.py::test_auto_config[original]",
        "tests/stock/test_doors.py::test_auto_tokenizer[original]",
        "tests/stock/test_doors.py::test_auto_processor[original]",
        "tests/stock/test_doors.py::test_auto_model[original]",
        "tests/stock/test_doors.py::test_auto_model_for_causal_lm[original]",
        "tests/stock/test_doors.py::test_pipeline_of_a_directory[original]",
        "tests/stock/test_doors.py::test_pipeline_takes_settings_of_a_call",
        "tests/stock/test_doors.py::test_pipeline_samples_as_generation_config_says",
        "tests/stock/test_doors.py::test_pipeline_of_a_network",
        "tests/stock/test_doors.py::test_code_beside_the_weights_is_never_run",
        "tests/stock/test_doors.py::test_pipeline_of_a_converted_directory",
        "tests/stock/test_doors.py::test_trainer_predict_with_a_yaml",
        "tests/stock/test_doors.py::test_trainer_predict_with_a_network",
        "tests/stock/test_doors.py::test_pipeline_of_a_name",
    ),
    "PyNative": ("tests/hosts/test_pynative.py",),
    "run and doctor": (
        "tests/launch/test_run.py::test_it_is_quiet_and_names_its_log",
        "tests/launch/test_run.py::test_evaluation_prints_the_loss",
        "tests/doctor/test_doctor.py::test_this_machine[--no-trial]",
        "tests/doctor/test_doctor.py::test_every_work_around_has_a_state[--no-trial]",
        "tests/doctor/test_doctor.py::test_the_names_are_those_that_are_registered",
    ),
}


@dataclass
class Result:
    """What ran in a row."""

    versions: dict[str, str]
    checks: dict[str, dict[str, Any]]


# ---- environments


def interpreter(version: str) -> str | None:
    """A Python of this version: the running one, one on the PATH, or one of pyenv."""
    if platform.python_version().startswith(f"{version}."):
        return getattr(sys, "_base_executable", sys.executable)
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = sorted((root / "versions").glob(f"{version}.*/bin/python"))
    return str(candidates[-1]) if candidates else None


def environment(row: Row, folder: Path) -> Path:
    """The environment of `row` in `folder`, made now if it is not there."""
    root = folder / f"mindformers-{row.mindformers}-mindspore-{row.mindspore}-python-{row.python}"
    if (root / "complete").exists():
        return root
    python = interpreter(row.python)
    if python is None:
        raise LookupError(f"there is no Python {row.python} on this machine")
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, "-m", "venv", str(root)], check=True)
    for arguments in row.commands():
        subprocess.run([str(root / "bin" / "pip"), "install", "--quiet", *arguments], check=True)
    (root / "complete").touch()
    return root


def with_this_package(base: Path, root: Path, wheel: Path) -> Path:
    """Python of a new environment at `root`: links to the packages of `base`, and this package."""
    python = base / "bin" / "python"
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(root)], check=True)
    (packages,) = (root / "lib").glob("python3*/site-packages")
    for entry in (base / "lib" / packages.parent.name / "site-packages").iterdir():
        own = entry.name.startswith(("mindformers_qwenvl", "_mindformers_qwenvl", "__editable__", "_editable_impl"))
        if not own and entry.suffix != ".pth" and entry.name != "__pycache__":
            (packages / entry.name).symlink_to(entry)
    new = root / "bin" / "python"
    command = [str(new), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    return new


def built_wheel(folder: Path, python: Path) -> Path:
    command = [str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    return next(folder.glob("mindformers_qwenvl-*.whl"))


VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({n: m.version(n) for n in ("mindformers", "mindspore")} | {"python": platform.python_version()}))
"""


# ---- running


def run(row: Row, base: Path, checks: list[str], logs: Path) -> Result:
    """Run `checks` in `row`, whose Python is that of the environment `base`."""
    with tempfile.TemporaryDirectory(prefix="mindformers-qwenvl-matrix-") as scratch:
        wheel = built_wheel(Path(scratch), base / "bin" / "python")
        python = with_this_package(base, Path(scratch) / "env", wheel)
        told = subprocess.run([str(python), "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
        return Result(json.loads(told), pytest(python, checks, logs / f"{row.name}.log"))


def pytest(python: Path, checks: list[str], log: Path) -> dict[str, dict[str, Any]]:
    """Counts and seconds of each check; slow tests too. What pytest prints goes to `log`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINDFORMERS_", "PYTHON"))}
    environment = {**kept, "PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("w") as out:
        xml = Path(folder) / "junit.xml"
        command = [
            str(python),
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-m",
            "",
            "--durations=0",
            f"--junitxml={xml}",
        ]
        command += [f"--basetemp={folder}/tests", "--durations-min=1"]
        # Those of a file side by side: they share its fixtures, such as a training.
        tests = sorted((test for check in checks for test in CHECKS[check]), key=lambda test: test.partition("::")[0])
        subprocess.run([*command, *tests], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        cases = list(ElementTree.parse(xml).getroot().iter("testcase")) if xml.exists() else []
    return {check: counted(CHECKS[check], cases) for check in checks}


def counted(tests: tuple[str, ...], cases: list[ElementTree.Element]) -> dict[str, Any]:
    """What became of `tests`, of all cases that ran. A test of which no case ran, as after a crash, has failed."""
    found = {test: [case for case in cases if node(case) == test or node(case).startswith((f"{test}[", f"{test}::"))]
             for test in tests}  # fmt: skip
    own = [case for some in found.values() for case in some]
    bad = [node(case) for case in own if case.find("failure") is not None or case.find("error") is not None]
    bad += [test for test, some in found.items() if not some]
    skipped = sum(case.find("skipped") is not None for case in own)
    passed = sum(all(case.find(word) is None for word in ("failure", "error", "skipped")) for case in own)
    seconds = sum(float(case.get("time", 0)) for case in own)
    return {"passed": passed, "failed": len(bad), "skipped": skipped, "failures": bad, "seconds": round(seconds)}


def node(case: ElementTree.Element) -> str:
    """`tests/a/test_b.py::test_c[d]`, as pytest takes it on its command line."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


# ---- the record and the tables


def read_record(file: Path = RECORD) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}}


def add(record: dict[str, Any], row: Row, result: Result) -> None:
    """Put what ran into the record; checks that did not run this time stay, if the versions do."""
    before = record["rows"].get(row.name, {})
    kept = before.get("checks", {}) if before.get("versions") == result.versions else {}
    record["rows"][row.name] = {"versions": result.versions, "checks": {**kept, **result.checks}}


def cell(counted: dict[str, Any] | None) -> str:
    if counted is None:
        return "–"
    tests = counted["passed"] + counted["failed"]
    return f"{counted['passed']}" if not counted["failed"] else f"**{counted['passed']} of {tests}**"


def table(record: dict[str, Any]) -> str:
    """The table of docs/hosts.md: tests that passed, of each check; a row that was not run says so."""
    lines = [f"| MindFormers | MindSpore | Python | {' | '.join(CHECKS)} | minutes |", "|---" * (len(CHECKS) + 4) + "|"]
    for row in ROWS:
        found = record["rows"].get(row.name)
        if found is None:
            cells = [row.mindformers, row.mindspore, row.python, *(cell(None) for _ in CHECKS), "not run yet"]
            lines.append(f"| {' | '.join(cells)} |")
            continue
        versions, checks = found["versions"], found["checks"]
        cells = [cell(checks.get(check)) for check in CHECKS]
        minutes = sum(counted["seconds"] for counted in checks.values()) / 60
        pair = [versions["mindformers"], versions["mindspore"], versions["python"]]
        lines.append(f"| {' | '.join([*pair, *cells, f'{minutes:.0f}'])} |")
    return "\n".join(lines)


def readme_row(page: Path) -> str:
    """The line of the table of versions with the version of this package."""
    version = ".".join(__version__.split(".")[:2])
    return next(line for line in page.read_text(encoding="utf-8").split("\n") if line.startswith(f"| {version} |"))


def seen(record: dict[str, Any]) -> str:
    """What was run, in a few words for README.md."""
    ran = [found["versions"] for found in record["rows"].values()]
    hosts = sorted({one["mindformers"] for one in ran})
    pythons = sorted({one["python"].rpartition(".")[0] for one in ran}, key=lambda python: int(python.split(".")[1]))
    return f"CPU: MindFormers {', '.join(hosts)}; Python {', '.join(pythons)}"


def write(record: dict[str, Any], file: Path = RECORD) -> None:
    """The record, and what the docs and README.md say of it, if it is theirs."""
    record["rows"] = {row.name: record["rows"][row.name] for row in ROWS if row.name in record["rows"]}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if file != RECORD:
        return
    for page, link in READMES.items() if record["rows"] else ():
        lines = page.read_text(encoding="utf-8").split("\n")
        at = lines.index(readme_row(page))
        lines[at] = f"{lines[at].rpartition(' | ')[0]} | {seen(record)} ({link}) |"
        page.write_text("\n".join(lines), encoding="utf-8")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        document.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindformers-qwenvl-matrix"
    parser.add_argument("--environments", type=Path, default=cache, metavar="DIR", help=f"(default: {cache})")
    parser.add_argument("--use", action="append", default=[], metavar="ROW=DIR", help="take this environment for a row")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="comma list (default: all)")
    parser.add_argument("--checks", default=",".join(CHECKS), help="comma list (default: all)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "mindformers-qwenvl-matrix-logs")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help=f"(default: {RECORD})")
    parser.add_argument("--write", action="store_true", help="run nothing, write the tables from the record")
    args = parser.parse_args(argv)
    record = read_record(args.record)
    given = dict(item.split("=", 1) for item in args.use)
    rows, checks = [_named(ROWS, name) for name in args.rows.split(",")], _checks(args.checks)

    def one(row: Row) -> tuple[Row, Result | None]:
        try:
            base = Path(given[row.name]) if row.name in given else environment(row, args.environments)
            return row, run(row, base, checks, args.logs)
        except (LookupError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: not run: {error}", flush=True)
            return row, None

    missing = False
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        for done in as_completed([pool.submit(one, row) for row in rows] if not args.write else []):
            row, result = done.result()
            missing |= result is None
            if result is not None:
                show(row, result)
                add(record, row, result)
                write(record, args.record)
    if args.write:
        write(record, args.record)
        return 0
    failed = any(one["failed"] for row in record["rows"].values() for one in row["checks"].values())
    print(f"logs: {args.logs}")
    return int(failed or missing)


def show(row: Row, result: Result) -> None:
    for check, found in result.checks.items():
        said = "ok" if found["passed"] and not found["failed"] else "FAILED"
        print(f"{row.name:7} {check:18} {said:6} {found['passed']} passed, {found['failed']} failed, "
              f"{found['skipped']} skipped, {found['seconds']} s", flush=True)  # fmt: skip
        for test in found["failures"]:
            print(f"{'':27}{test}", flush=True)


def _named(rows: tuple[Row, ...], name: str) -> Row:
    found = [row for row in rows if row.name == name.strip()]
    if not found:
        raise SystemExit(f"no row {name!r}; there are {', '.join(row.name for row in rows)}")
    return found[0]


def _checks(names: str) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in CHECKS]
    if unknown:
        raise SystemExit(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
