"""A dataset read as training would: every fault by its kind, against the template and its errors."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from mindformers_qwenvl.datasets.check import checker as check_run
from mindformers_qwenvl.datasets.check.checker import check_file
from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.datasets.check.sample_check import FAULTS, WARNINGS, Checker, Result
from tests.support.check_samples import SLOTS, VOCABULARY, checked, only, talk, write_yaml

SMALL_PICTURES = {"image_policy": {"max_pixels": 1000}}
FAULTY = {
    "not JSON": ('{"id": 3, "conver', "malformed record", r"\(line 2\): not valid JSON", {}),
    "no object": ("[]", "malformed record", "found list", {}),
    "no turns": ({"id": "x", "conversations": []}, "malformed record", "no turns", {}),
    "no list": ({"id": "x", "conversations": "hi"}, "malformed record", "a list 'conversations'", {}),
    "no text": ({"id": "x", "conversations": [{"from": "user"}]}, "malformed record", "turn 0: expected an object", {}),
    "role": ({"id": "x", "conversations": [{"from": "gpt", "value": "q"}]}, "unknown role", "turn 0: 'gpt'", {}),
    "unclosed": (talk("q", "<img>a.png"), "unclosed tag", r"turn 1 \(assistant\): unclosed image tag", {}),
    "nested": (talk("<img>a<img>b</img>"), "malformed record", "special token <img> is inside", {}),
    "missing": (talk("<img>no.png</img>"), "missing picture", "no.png: no such file", {}),
    "a folder": (talk("<img>.</img>"), "missing picture", "a folder, not a file", {}),
    "broken": (talk("<img>broken.png</img>"), "broken picture", "not a readable image", {}),
    "torn": (talk("<img>torn.png</img>"), "broken picture", r"torn.png: broken", {}),
    "huge": (talk("<img>large.png</img>"), "huge picture", "200x100 pixels", SMALL_PICTURES),
    "outside": (talk("<img>../x.png</img>"), "refused picture", "outside dataset_dir", {}),
    "format": (talk("<img>a.tiff</img>"), "refused picture", "TIFF", {}),
    "too many": (talk("<img>a.png</img><img>b.png</img>"), "too many images", "2 images, .* allows 1", {}),
    "cut off": (
        talk("q " * 200 + "<img>a.png</img>"),
        "image cut by max_length",
        "max_length 100 cuts off image 1 of 1",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
def test_faults_have_a_kind_a_reason_and_an_id(folder, fault):
    record, kind, reason, options = FAULTY[fault]
    report = checked(folder, [talk("good"), record, talk("<img>a.png</img>good")], **options)
    finding = only(report)
    assert (finding.kind, finding.sample, finding.fails) == (kind, 1, True)
    assert kind in FAULTS and report.fails
    assert finding.id == ("x" if isinstance(record, dict) else None)
    assert re.search(reason, finding.detail), finding.detail
    name = "sample 1, id 'x': " if isinstance(record, dict) else "sample 1: "
    assert f"FAILS     {kind}: 1\n            {name}{finding.detail}" in str(report)
    assert "training would stop at 1 of these findings" in str(report)


@pytest.mark.parametrize("fault", [fault for fault in FAULTY if fault != "not JSON"])
def test_what_fails_here_fails_in_training_and_what_passes_trains(folder, fault):
    """The same records through the template in MindFormers' own transform, with the same YAML section."""
    from mindformers.models.multi_modal import BaseXModalToTextTransform

    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer
    from mindformers_qwenvl.datasets.annotations import AnnotationError, AnnotationFile, SampleNote, encode_sample
    from mindformers_qwenvl.text.layout import BadSampleError

    record, _, _, options = FAULTY[fault]
    path = folder / "data.jsonl"
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in [talk("good"), record]))
    file, tokenizer = AnnotationFile(path), QwenVLTokenizer(VOCABULARY, image_slots=SLOTS)
    template = QwenVLContentTransformTemplate(
        tokenizer=tokenizer, mode="train", max_length=100, image_size=28, dataset_dir=str(folder), **options
    )
    transform = BaseXModalToTextTransform(tokenizer, template, max_length=100)

    def train(index):
        where, turns = file.sample(index)
        return transform(np.array(encode_sample(turns, SampleNote(where))))

    train(0)
    with pytest.raises((AnnotationError, BadSampleError)):
        train(1)


def test_clean_data_passes(folder):
    report = checked(folder, [talk("<img>a.png</img>q"), talk("q")])
    assert not report.fails and not report.counts
    assert report.images.tolist() == [1, 0]
    assert "images    1 with 0, 1 with 1; 1 allowed" in str(report)
    assert "training would read all samples" in str(report)


def test_numbers_are_those_of_the_golden_layout(folder):
    """Tokens and labels of a sample, against what the layout module gives."""
    from mindformers_qwenvl.text.layout import training_sample
    from mindformers_qwenvl.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_file(VOCABULARY, image_slots=SLOTS)
    record = talk("<img>a.png</img>What is it?", "A dog, I think.")
    turns = [(turn["from"], turn["value"]) for turn in record["conversations"]]
    whole = training_sample(turns, vocabulary, max_length=1000)
    cut = training_sample(turns, vocabulary, max_length=60)
    assert len(cut.input_ids) < len(whole.input_ids)
    report = checked(folder, [record], max_length=60)
    assert report.tokens[0] == len(whole.input_ids)
    assert report.trained[0] == (cut.labels >= 0).sum()
    finding = only(report)
    lost = (whole.labels >= 0).sum() - (cut.labels >= 0).sum()
    assert finding.detail == f"{len(whole.input_ids)} tokens, cut after 61 in turn 1; {lost} trained tokens are lost"


@pytest.mark.parametrize(
    ("record", "kind", "detail", "max_length"),
    [
        (talk("q", "r " * 100), "over max_length", "in turn 1; ", 100),
        (talk("q", ""), "nothing to learn", "no answer has any text", 100),
        (talk("q", "<ref>a</ref><box>(1,2),(3,4)"), "unclosed box or ref", "turn 1: 1 <box> and 0 </box>", 100),
        (talk("<ref>a", "r"), "unclosed box or ref", "turn 0: 1 <ref> and 0 </ref>", 100),
    ],
)
def test_what_training_passes_over_is_a_note(folder, record, kind, detail, max_length):
    report = checked(folder, [record], max_length=max_length)
    finding = only(report)
    assert (finding.kind, finding.fails, report.fails) == (kind, False, False)
    assert kind in WARNINGS and detail in finding.detail
    assert f"note      {kind}: 1" in str(report)


def test_a_cut_that_leaves_nothing_to_learn(folder):
    report = checked(folder, [talk("q " * 200, "r")])
    assert report.counts == {"over max_length": 1, "nothing to learn": 1}
    assert "cut after 101 in turn 0" in report.first["over max_length"][0].detail
    turns = [{"from": "assistant", "value": "hi"}, *talk("q " * 200)["conversations"]]
    report = checked(folder, [{"conversations": turns}])  # the first turn is left out, but counts
    assert "cut after 101 in turn 1" in report.first["over max_length"][0].detail


@pytest.mark.parametrize("record", [talk("<img>no.png</img>" * 2), talk("q " * 200 + "<img>no.png</img>")])
def test_a_sample_that_training_skips_is_a_note(folder, record):
    report = checked(folder, [record], image_overflow="skip_sample")
    assert only(report).detail.endswith("the sample is left out (image_overflow: skip_sample)")
    assert not report.fails and report.trained.tolist() == [0]


def test_a_picture_of_many_samples_is_opened_once(folder, monkeypatch):
    path = folder / "data.json"
    path.write_text(json.dumps([talk("<img>a.png</img>"), talk("<img>no.png</img>")] * 5))
    checker = Checker(check_run.AnnotationFile(path), read_settings(write_yaml(folder, dataset_dir=str(folder))))
    found = [bool(checker.check(index).findings) for index in range(10)]
    assert found == [False, True] * 5
    assert checker._picture_fault.cache_info().misses == 2


# ---------------------------------------------------------------- processes


def test_workers_find_the_same_in_the_same_order(folder):
    path = folder / "data.json"
    records = [talk(f"<img>{'ab'[n % 2] if n % 7 else n}.png</img>" + "q " * (n % 90)) for n in range(300)]
    path.write_text(json.dumps(records))
    settings = read_settings(write_yaml(folder, dataset_dir=str(folder)))
    outputs, told = [], []
    for workers in (1, 3):
        lines = io.StringIO()
        report = check_file(path, settings, workers=workers, lines=lines, progress=lambda *done: told.append(done))
        outputs.append((str(report), lines.getvalue(), report.tokens.tolist(), report.trained.tolist()))
    assert outputs[0] == outputs[1]
    assert report.counts["missing picture"] == 43 and told[-1] == (300, 300)
    found = [json.loads(line) for line in outputs[0][1].splitlines()]
    assert [line["sample"] for line in found if line["kind"] == "missing picture"] == list(range(0, 300, 7))


def test_a_worker_that_dies_is_said(folder, monkeypatch):
    path = folder / "data.json"
    path.write_text(json.dumps([talk("q")] * 100))
    monkeypatch.setattr(Checker, "check", lambda self, index: os._exit(9) if index == 40 else Result())
    settings = read_settings(write_yaml(folder))
    with pytest.raises(ChildProcessError, match=r"a worker process died near sample (0|32)"):
        check_file(path, settings, workers=2)


def test_num_samples_of_the_yaml(folder):
    report = checked(folder, [talk("q"), talk("<img>no.png</img>")], loader={"num_samples": 1})
    assert report.checked == 1 and not report.fails


def test_it_needs_neither_mindspore_nor_mindformers():
    code = (
        "import sys, mindformers_qwenvl.datasets.check.checker, mindformers_qwenvl.cli.check_data; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded and not {"mindspore", "mindformers", "matplotlib"} & set(loaded)


ENDLESS = """
import os, sys, time
from mindformers_qwenvl.datasets.check import checker
from mindformers_qwenvl.datasets.check.job import read_settings
def slow(self, index):
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: two processes' lines do not mix
    time.sleep(600)
checker.Checker.check = slow
checker.check_file(sys.argv[1], read_settings(sys.argv[2]), workers=2)
"""


def test_workers_end_when_the_check_is_killed(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([talk("q")] * 100))
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path), str(write_yaml(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    workers = {int(process.stdout.readline()) for _ in range(2)}
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):  # noqa: PTH110
        assert time.monotonic() < deadline, f"{workers} live on"
        time.sleep(0.2)
