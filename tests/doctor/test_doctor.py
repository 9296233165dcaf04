"""`mindformers-qwenvl doctor` on this machine, and what it says of machines that this one is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_qwenvl import registration
from mindformers_qwenvl.doctor import machine, operators, plugin, process, trial
from mindformers_qwenvl.doctor.findings import FAILED, NOT_CHECKED, OK, WARNING, Finding, as_dict, failed, render
from mindformers_qwenvl.host import WORK_AROUNDS


@pytest.fixture(scope="module", params=["--no-trial", pytest.param("--device", marks=pytest.mark.slow)])
def report(request, tmp_path_factory) -> dict:
    """Of the examination without its trials, and of the whole."""
    folder = tmp_path_factory.mktemp("doctor")
    command = [sys.executable, "-m", "mindformers_qwenvl", "doctor", "--json", request.param]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINDFORMERS_")}
    environment = {**kept, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(folder.iterdir())  # nothing is left behind
    return json.loads(done.stdout)


WHOLE = pytest.mark.parametrize("report", [pytest.param("--device", marks=pytest.mark.slow)], indirect=True)


def states(report: dict, section: str) -> dict[str, str]:
    return {one["name"]: one["state"] for one in report["findings"] if one["section"] == section}


def test_this_machine(report):
    assert report["passed"] is True
    assert states(report, "Host") == {"MindFormers": OK, "MindSpore": OK, "pair": OK}
    assert states(report, "Registered names") == dict.fromkeys(plugin.NAMES, OK)


@WHOLE
def test_a_trial(report):
    assert states(report, "Trial, at tiny size") == {"train step": OK, "generation": OK}


def test_every_work_around_has_a_state(report):
    found = states(report, "Work-arounds")
    assert list(found) == [row.name for row in WORK_AROUNDS]


@WHOLE
def test_a_cpu_says_what_it_could_not_check(report):
    assert states(report, operators.SECTION) == dict.fromkeys(operators.OPERATORS, NOT_CHECKED)


def test_the_names_are_those_that_are_registered():
    """`NAMES` are all that `register` adds, in `MindFormerModuleType`'s words."""
    from mindformers.tools.register import MindFormerModuleType

    paths = [*((path, "CONFIG", None) for path in registration.CONFIGS)]
    paths += [*((path, "MODELS", None) for path in registration.MODELS), *registration.ESSENTIALS, *registration.OTHERS]
    added: dict[str, set[str]] = {}
    for path, kind, alias in paths:
        added.setdefault(getattr(MindFormerModuleType, kind), set()).add(alias or path.partition(":")[2])
    assert added == {kind: set(names) for kind, names in plugin.NAMES.items()}


# ---- the operators: both sides on this CPU, and differences made by hand


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> dict[str, np.ndarray]:
    file = tmp_path_factory.mktemp("operators") / "cpu.npz"
    arguments = {"device": "CPU", "dtype": "float16", "file": str(file)}
    assert process.call("mindformers_qwenvl.doctor.operators", "compute", **arguments) == []
    with np.load(file) as saved:
        return dict(saved)


@pytest.mark.slow
def test_every_operator_is_computed(computed):
    assert {name.partition(":")[0] for name in computed} == set(operators.OPERATORS)
    assert {name for name in computed if name.startswith("Attention")} == {
        "Attention: forward",
        *(f"Attention: gradient {number}" for number in (1, 2, 3)),
    }


@pytest.mark.slow
def test_the_plain_forms_are_right(computed):
    """Against numpy: attention over the cache, which no gradient checks, and the causal one."""
    random = [np.random.RandomState(seed).randn(2, 2, 64, 128).astype(np.float32) for seed in (3, 4, 5)]
    q, k, v = (operators._rounded(array, "float16") for array in random)
    scores = np.where(np.tril(np.ones((64, 64), bool)), q @ k.swapaxes(-1, -2) / np.sqrt(128), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 64, 256)
    np.testing.assert_allclose(computed["causal Attention: forward"], expected, atol=1e-4)
    keys, values = (operators._rounded(np.random.RandomState(n).randn(2, 64, 256).astype(np.float32), "float16")
                    for n in (11, 12))  # fmt: skip
    query = operators._rounded(np.random.RandomState(13).randn(2, 1, 256).astype(np.float32), "float16")
    for row, length in enumerate((20, 33)):
        for head in range(2):
            part = slice(128 * head, 128 * head + 128)
            score = keys[row, :length, part] @ query[row, 0, part] / np.sqrt(128)
            weight = np.exp(score - score.max())
            expected = weight / weight.sum() @ values[row, :length, part]
            found = computed["PagedCache and PagedAttention: forward"][row, 0, part]
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def some() -> dict[str, np.ndarray]:
    """As `compute` writes it."""
    random = np.random.RandomState(0)
    return {f"{name}: forward": random.randn(2, 64).astype(np.float32) for name in ("Rotary", "Gelu")}


def test_differences(some):
    assert all(finding.state == OK for finding in operators.compare(some, some, "float16"))
    name = "Rotary: forward"
    off = {**some, name: some[name] + 0.02 * np.abs(some[name]).max()}
    (bad,) = [one for one in operators.compare(off, some, "float16") if one.state != OK]
    assert bad.name == "Rotary forward, float16" and bad.state == FAILED
    assert bad.data["difference"] == pytest.approx(0.02, rel=1e-3)
    assert "2.0e-02 of the largest number" in bad.detail
    assert all(finding.state == OK for finding in operators.compare(off, some, "bfloat16"))


def test_what_is_missing_or_not_finite_is_a_fault(some):
    name = "Gelu: forward"
    less = {key: value for key, value in some.items() if key != name}
    assert [one.state for one in operators.compare(less, {name: some[name]}, "float16")] == [FAILED]
    broken = {name: np.full_like(some[name], np.nan)}
    assert [one.state for one in operators.compare(broken, {name: some[name]}, "float16")] == [FAILED]


def test_rounding():
    numbers = np.random.RandomState(0).randn(1000).astype(np.float32)
    rounded = operators._rounded(numbers, "bfloat16")
    assert (rounded.view(np.uint32) & 0xFFFF == 0).all()
    assert np.abs(rounded / numbers - 1).max() <= 2.0**-8
    assert operators._rounded(np.float32([1.00390625]), "bfloat16")[0] == 1.0  # half-way, to even


# ---- processes that end in every way


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no such driver')", "ValueError: no such driver (exit code 1)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import os; os._exit(7)", "it wrote nothing (exit code 7)"),
        ("import time; time.sleep(600)", "no result after"),
    ],
)
def test_a_process_without_a_result(tmp_path, monkeypatch, code, message):
    (tmp_path / "broken_module.py").write_text(f"def act():\n    {code}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(process.Broken) as broken:
        process.call("broken_module", "act", seconds=300 if "sleep" not in code else 1)
    assert message in str(broken.value)


def test_a_trial_that_fails(monkeypatch):
    answers = {"learn": {"losses": [1.0, 2.0, float("inf")], "seconds": 1}}
    answers["answer"] = {"cached": [1, 2], "plain": [1, 3], "seconds": 1}
    monkeypatch.setattr(trial, "call", lambda module, function: answers[function])
    found = list(trial.trial())
    assert [one.state for one in found] == [FAILED, FAILED]
    assert "it does not learn" in found[0].detail
    assert "with a cache [1, 2], without one [1, 3]" in found[1].detail


# ---- the machine


def test_ascend_is_read_from_its_files(tmp_path, monkeypatch):
    (tmp_path / "driver.info").write_text("Version=25.2.0\nascendhal_version=7.35\n")
    (tmp_path / "cann" / "aarch64-linux").mkdir(parents=True)
    (tmp_path / "cann" / "aarch64-linux" / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.5.0\n")
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "driver.info")
    monkeypatch.setattr(machine, "CANN", (str(tmp_path / "cann"),))
    (found,) = [one for one in machine.machine() if one.name == "CANN"]
    assert (found.state, found.detail) == (OK, "CANN 8.5.0, driver 25.2.0")
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    (found,) = [one for one in machine.machine() if one.name == "CANN"]
    assert (found.state, found.detail) == (WARNING, "CANN 8.5.0, driver not found")


def test_extras_are_read_from_the_metadata(monkeypatch):
    requirements = ["pillow>=10", "pillow>=10 ; extra == 'vocab'", 'nothing-of-that-name<2; extra == "serve"']
    requirements += ["mindformers-qwenvl[vocab]; extra == 'demo'", "pytest; extra == 'test'"]
    monkeypatch.setattr(machine.metadata, "requires", lambda name: requirements)
    found = {one.name: one for one in machine.optional() if one.name.startswith("extra")}
    assert found.keys() == {"extra vocab", "extra serve"}
    assert found["extra vocab"].state == OK and found["extra vocab"].detail.startswith("pillow ")
    assert found["extra serve"].state == WARNING
    assert "pip install nothing-of-that-name" in found["extra serve"].detail


def test_a_disk_that_is_full(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    (found,) = [one for one in machine.machine() if one.name == "disk"]
    assert found.state == WARNING
    assert found.data["free"] == 10**9


def test_the_report():
    findings = [Finding("A", "one", OK, "fine"), Finding("A", "two", WARNING), Finding("B", "three", FAILED, "broken")]
    text = render("1.2", findings)
    assert text.splitlines()[0] == "mindformers-qwenvl 1.2"
    assert text.splitlines()[-1] == "1 wrong: three"
    assert "  failed       three  broken" in text
    assert failed(findings) and not failed(findings[:2])
    assert render("1.2", findings[:2]).endswith("nothing wrong")
    assert as_dict("1.2", findings)["passed"] is False
