"""Boxes that the model would learn wrongly: found with their ids, corrected where it is certain what they mean."""

from __future__ import annotations

import io
import json

import pytest

from mindformers_qwenvl.datasets.check.boxes import box_faults, fixed_boxes
from mindformers_qwenvl.datasets.check.checker import check_file
from mindformers_qwenvl.datasets.check.fix import fix_file
from mindformers_qwenvl.datasets.check.job import read_settings
from tests.support.check_samples import talk, write_yaml
from tests.support.linear import assert_linear
from tests.support.trials import TRIALS

FOUND = {
    "pixel_boxes": {
        ("p0", "box off the grid"),
        ("p1", "box off the grid"),
        ("p2", "box not of whole numbers"),
        ("p3", "box corners out of order"),
        ("p4", "box off the grid"),
    },
    "box_spellings": {
        ("b0", "box in a spelling the model has not seen"),
        ("b2", "box in a spelling the model has not seen"),
        ("b3", "box in a spelling the model has not seen"),
        ("b4", "tags of another model"),
        ("b5", "unclosed box or ref"),
        ("b6", "unclosed box or ref"),
        ("b8", "box of a wrong number of numbers"),
    },
    "boxes_in_one_tag": {("apples", "several boxes in one tag")},
}


@pytest.mark.parametrize("name", FOUND)
def test_trials_have_a_finding_each(tmp_path, name):
    settings = read_settings(write_yaml(tmp_path, dataset_dir=str(TRIALS), max_length=2000))
    lines = io.StringIO()
    report = check_file(TRIALS / name / "train.json", settings, lines=lines)
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {(finding["id"], finding["kind"]) for finding in found} == FOUND[name]
    assert len(found) == len(FOUND[name]) and not report.fails
    assert f"training would read all samples, including those of the {len(found)} notes above" in str(report)


@pytest.mark.parametrize(
    "text",
    [
        "<box>(200,250),(600,750)</box>",
        "<box>(0,0),(999,999)</box>",
        "<box>(200, 250), (600, 750)</box>",
        "<quad>(10,20),(300,22),(298,80),(12,78)</quad>",
        "<quad>(300,22),(10,20),(12,78),(298,80)</quad>",
        "no box, 1 < 2 <|endoftext|>",
        "<img><box>(1)</box></img>",
    ],
)
def test_what_the_model_knows_is_no_fault(text):
    assert box_faults(text) == [] and fixed_boxes(text) == (text, 0)


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("<box>（200，250），（600，750）</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>(200,250,600,750)</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>[[200, 250, 600, 750]]</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>200 250 600 750</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>(600,750),(200,250)</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>(200,750),(600,250)</box>", "<box>(200,250),(600,750)</box>"),
        ("<box>(200,250),(1000,1000)</box>", "<box>(200,250),(999,999)</box>"),
        ("<box>(0.2,0.25),(0.6,1.0)</box>", "<box>(200,250),(600,999)</box>"),
        ("<box>(1,2),(3,4),(5,6),(7,8)</box>", "<box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>"),
        ("<quad>[10,20,300,22,298,80,12,1000]</quad>", "<quad>(10,20),(300,22),(298,80),(12,999)</quad>"),
        (
            "<|object_ref_start|>it<|object_ref_end|><|box_start|>[1,2,3,4]<|box_end|>",
            "<ref>it</ref><box>(1,2),(3,4)</box>",
        ),
        # not certain: pixels, below zero, a quad in a box tag, six numbers, a word, mixed pixels and fractions
        ("<box>(1342,2210),(1511,2397)</box>", None),
        ("<box>(-3,250),(600,750)</box>", None),
        ("<box>(10,20),(300,22),(298,80),(12,78)</box>", None),
        ("<box>(1,2),(3,4),(5,6)</box>", None),
        ("<quad>(1,2),(3,4),(5,6)</quad>", None),
        ("<box>the left one</box>", None),
        ("<box></box>", None),
        ("<box>(0.5,0.5),(200.5,300)</box>", None),
        ("<box>(1,2),(3,4e9)</box>", None),
    ],
)
def test_only_what_is_certain_is_corrected(text, fixed):
    around = f"<ref>a</ref>{text}, 图"
    assert box_faults(around)
    new, count = fixed_boxes(around)
    if fixed is None:
        assert (new, count) == (around, 0)
    else:
        assert new == f"<ref>a</ref>{fixed}, 图" and count >= 1 and box_faults(new) == []


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_a_corrected_copy(tmp_path, name):
    good, half = talk("q", "<box>(1,2),(3,4)</box> 图"), talk("\ud800")
    records = [good, talk("q", "<box>(9,9),(1,1)</box>"), half, talk("q", "<box>(1342,1),(2000,2)</box>")]
    source, output = tmp_path / "data.json", tmp_path / name
    source.write_text(json.dumps(records))
    fixed = fix_file(source, output, read_settings(write_yaml(tmp_path)))
    text = output.read_text(encoding="utf-8")
    written = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
    assert written == [good, talk("q", "<box>(1,1),(9,9)</box>"), half, records[3]]
    assert "1 boxes of 1 samples corrected; 1 left as they are" in str(fixed)


def test_the_dataset_itself_is_not_overwritten(tmp_path):
    source = tmp_path / "data.json"
    source.write_text(json.dumps([talk("q")]))
    with pytest.raises(ValueError, match="would overwrite"):
        fix_file(source, source, read_settings(write_yaml(tmp_path)))


@pytest.mark.parametrize(
    ("before", "piece", "after", "count"),
    [("", "<box>", "", 100_000), ("<box>", "(1,", "</box>", 200_000), ("", "<|box_start|>", "", 50_000)],
)
def test_the_time_is_linear_in_the_text(before, piece, after, count):
    assert_linear(lambda count: fixed_boxes(before + piece * count + after), count, 3)
