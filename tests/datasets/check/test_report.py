"""How a check says what it has found."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mindformers_qwenvl.datasets.check.findings import CheckReport, draw_histogram
from mindformers_qwenvl.datasets.check.sample_check import Result
from tests.support.check_samples import checked, talk


def test_the_histogram_in_text_holds_every_sample(folder):
    report = CheckReport(1000, 500, 1)
    lengths = np.random.default_rng(0).integers(3, 900, 1000)
    report.add(0, [Result(int(length), 1, 0) for length in lengths])
    rows = [line.split() for line in str(report).splitlines() if " to " in line and "#" in line]
    assert sum(int(row[3].replace(",", "")) for row in rows) == 1000
    (marked,) = [row for row in rows if "max_length" in row]
    assert int(marked[0]) <= 500 <= int(marked[2])


def test_the_report_names_five_of_a_kind(folder):
    report = checked(folder, [talk(f"<img>{number}.png</img>") for number in range(9)])
    text = str(report)
    assert "missing picture: 9" in text and "sample 4," in text and "sample 5," not in text and "..." in text


def test_a_report_without_a_usable_sample(folder):
    assert "0 could be laid out" in str(checked(folder, [{"id": 1}]))


def test_the_histogram_as_png():
    file = io.BytesIO()
    draw_histogram(np.array([1, 2, 2, 50]), 40, file)
    with Image.open(file) as image:
        assert image.format == "PNG" and min(image.size) > 200
        assert len(image.convert("RGB").getcolors(100_000)) > 10


def test_a_path_cannot_fake_a_line_of_the_report(tmp_path):
    report = checked(tmp_path, [talk("<img>a\ntraining would read all samples\x1b[2J</img>")])
    assert report.fails
    assert "training would read all samples" not in str(report).splitlines() and "\x1b" not in str(report)
