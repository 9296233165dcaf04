"""Fixtures every test may use."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.annotation_files import record, write_lines, write_list
from tests.support.golden import golden_set, write_checkpoint
from tests.support.transforms import SLOTS
from tests.support.web import site

# Inputs are drawn by seed, and the time of an example says more of the machine than of the code.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


# Folders whose files share a network that takes long to compile.
TOGETHER = ("tests/chat", "tests/evaluate", "tests/serve")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile` in the order of the files, so that their last ones, which are short, end together; a folder of
    TOGETHER goes to one process."""
    from xdist.scheduler import LoadFileScheduling

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)

    return ByFileOrFolder(config, log)


def pytest_collection_finish():
    """What was imported by now, half a million objects, need not be looked through at each compilation: MindSpore
    collects garbage twice for each graph (a seventh of the time)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    """Each test runs in an empty folder of its own: importing MindFormers writes ./output into the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own_logs(tmp_path, monkeypatch):
    """MindFormers has a logger for each folder of logs: a command quietens that of this test alone."""
    monkeypatch.setenv("LOCAL_DEFAULT_PATH", str(tmp_path / "logs"))
    monkeypatch.setenv("GLOG_v", "3")


@pytest.fixture(scope="module")
def released():
    """What the module has compiled is given back at its end."""
    from tests.support.graphs import release

    yield
    release()


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory) -> Callable[..., Path]:
    """`checkpoint_dir("a56")` -> an original HuggingFace directory, drawn once a session; copy it to change it."""
    drawn: dict[tuple, Path] = {}

    def factory(name: str, *, seed: int = 0, shards: int = 3) -> Path:
        key = (name, seed, shards)
        if key not in drawn:
            drawn[key] = write_checkpoint(name, tmp_path_factory.mktemp(f"hf_{name}"), seed=seed, shards=shards)
        return drawn[key]

    return factory


@pytest.fixture(scope="session")
def taught(checkpoint_dir, tmp_path_factory):
    """A network of a56 that has learnt to box things in a picture; see `taught.Taught`."""
    from tests.support.taught import ANSWER, QUESTION, Taught, draw_scene, teach

    folder = tmp_path_factory.mktemp("taught")
    picture = folder / "scene.png"
    draw_scene(picture)
    teach(checkpoint_dir("a56"), folder / "model", [(picture, QUESTION, ANSWER)])
    return Taught(folder / "model", picture)


@pytest.fixture
def web():
    """A server on this machine; see `web.Site`."""
    with site() as served:
        yield served


@pytest.fixture(params=["list", "indented", "bom", "jsonl", "jsonl_crlf", "jsonl_blank_lines", "jsonl_bom"])
def annotations(request, tmp_path):
    """The same seven records in every form that is read."""
    records = [record(number) for number in range(7)]
    path = tmp_path / "data.json"
    if request.param == "indented":
        path.write_text("\n\n " + json.dumps(records, indent=2), encoding="utf-8")
    elif request.param == "jsonl_crlf":
        write_lines(path, records, end="\r\n")
    elif request.param == "jsonl_blank_lines":
        write_lines(path, records, end="\n\n  \n")
        path.write_bytes(b"\n" + path.read_bytes() + b"\n\n")
    else:
        (write_lines if request.param.startswith("jsonl") else write_list)(path, records)
    if request.param.endswith("bom"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path


@pytest.fixture
def small():
    """The vocabulary of a56, 16 slots an image."""
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    return QwenVLTokenizer(golden_set("a56").vocab_file, image_slots=SLOTS)
