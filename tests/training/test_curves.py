"""Curves of runs, and the command `plot`."""

from __future__ import annotations

import math
import sys

import pytest
from PIL import Image

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.training.curves import draw, mean_over_ranks, read_run, smooth
from mindformers_qwenvl.training.steps_file import StepsFile, steps_file_name


def train(output_dir, steps: int, ranks: int = 1, **more) -> None:
    for rank in range(ranks):
        file = StepsFile(steps_file_name(output_dir, rank))
        for step in range(1, steps + 1):
            row = {"step": step, "epoch": 1, "loss": 8 / step + rank, "learning_rate": 1e-5, "grad_norm": 2.0}
            file.append({**row, "seconds": 0.5, "tokens_per_s": 1000.0, **more})
        file.close()


def test_smooth_is_the_mean_of_the_values_around():
    assert smooth([1, 2, 6, 4, 2], 3) == [1, 3, 4, 4, 2]
    assert smooth([1, 2, 6, 4, 1], 5) == [1, 3, 2.8, 11 / 3, 1]
    assert smooth([1, 2, 6, 4, 2], 2) == smooth([1, 2, 6, 4, 2], 3)
    assert smooth([5], 3) == [5]
    assert smooth([1, math.inf, 3], 3) == [1, 2, 3]
    assert math.isnan(smooth([math.nan], 2)[0])


def test_smooth_does_not_shift_a_curve():
    """Of a straight line the mean is the line itself, also at its ends."""
    line = [10 - 0.5 * step for step in range(40)]
    for window in (1, 2, 5, 20, 100):
        assert smooth(line, window) == pytest.approx(line)


def test_smooth_refuses_an_empty_window():
    with pytest.raises(ValueError, match="got 0"):
        smooth([1], 0)


def test_mean_over_ranks_without_a_last_step_that_is_being_written():
    first = [{"step": 1, "loss": 1.0, "grad_norm": None}, {"step": 2, "loss": 2.0}]
    second = [{"step": 1, "loss": 3.0, "grad_norm": 4.0}]
    (row,) = mean_over_ranks([first, second])
    assert (row["step"], row["loss"], row["grad_norm"], row["mfu"]) == (1, 2.0, 4.0, None)


@pytest.mark.parametrize(
    ("spans", "steps"),
    [
        ([(1, 12), (1, 6)], 12),  # went on in one process
        ([(1, 12), (7, 12)], 12),  # in two
        ([(1, 12), (7, 11)], 11),  # in two, and one of them is a row behind
        ([(1, 6), (7, 6)], 6),  # in two, of which one has no row yet
    ],
)
def test_a_run_that_goes_on_in_another_number_of_processes(spans, steps):
    ranks = [
        [{"step": step, "loss": rank, "tokens_per_s": 9.0} for step in range(first, last + 1)]
        for rank, (first, last) in enumerate(spans)
    ]
    rows = mean_over_ranks(ranks)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    having = [[rank for rank, (first, last) in enumerate(spans) if first <= row["step"] <= last] for row in rows]
    assert [row["loss"] for row in rows] == [sum(ranks) / len(ranks) for ranks in having]
    assert {row["tokens_per_s"] for row in rows} == {9.0}


def test_run_of_two_cards(tmp_path):
    train(tmp_path, 4, ranks=2)
    run = read_run(tmp_path)
    assert run.steps == [1, 2, 3, 4]
    assert run.columns["loss"] == pytest.approx([8.5, 4.5, 8 / 3 + 0.5, 2.5])
    assert all(map(math.isnan, run.columns["mfu"]))


def png(path) -> Image.Image:
    image = Image.open(path)
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def test_plot_draws_and_compares(tmp_path, capsys):
    train(tmp_path / "a", 30, mfu=0.35)
    train(tmp_path / "b", 50, ranks=2)
    assert main(["plot", str(tmp_path / "a")]) == 0
    alone = png(tmp_path / "a" / "curves.png")
    assert f"{tmp_path / 'a'}: 30 steps, 1 to 30, loss 0.2667" in capsys.readouterr().out
    both = tmp_path / "made" / "both.png"
    assert main(["plot", str(tmp_path / "a"), "--compare", str(tmp_path / "b"), "--output", str(both)]) == 0
    orange = (255, 127, 14)  # the second run's
    assert orange in {colour for _, colour in png(both).getcolors(1 << 24)}
    assert orange not in {colour for _, colour in alone.getcolors(1 << 24)}


def axes_drawn(monkeypatch, runs, path, **more):
    """The four axes of a drawing: loss, learning rate, gradient norm, throughput."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (drawn.append(self), save(self, *args, **kw)))
    draw(runs, path, **more)
    return drawn[0].axes


def test_a_short_run_beside_a_long_one(tmp_path, monkeypatch):
    train(tmp_path / "short", 10)
    train(tmp_path / "long", 60)
    train(tmp_path / "longer", 100)
    short, long, longer = (read_run(tmp_path / name) for name in ("short", "long", "longer"))
    axes = axes_drawn(monkeypatch, [short, long], tmp_path / "x.png")
    assert {part.get_xscale() for part in axes} == {"log"}
    (x1, _), (x2, _) = (axes[0].transAxes.inverted().transform(axes[0].transData.transform((x, 1))) for x in (1, 10))
    assert x2 - x1 > 0.4  # of the width; a sixth on a linear axis
    assert axes[0].lines[-1].get_xdata()[-1] == 10  # the short one is on top
    assert {part.get_xscale() for part in axes_drawn(monkeypatch, [long, longer], tmp_path / "y.png")} == {"linear"}


def test_logarithmic_loss(tmp_path, monkeypatch, capsys):
    train(tmp_path / "a", 30)
    loss, rate, norm, _ = axes_drawn(monkeypatch, [read_run(tmp_path / "a")], tmp_path / "x.png", log_loss=True)
    assert (loss.get_yscale(), rate.get_yscale(), norm.get_yscale()) == ("log", "linear", "log")
    assert main(["plot", str(tmp_path / "a"), "--log"]) == 0
    file = StepsFile(steps_file_name(tmp_path / "b", 0))
    file.append({"step": 1, "epoch": 1, "loss": -1.0, "learning_rate": 1e-5, "grad_norm": 2.0, "seconds": 0.5})
    file.close()
    capsys.readouterr()
    assert main(["plot", str(tmp_path / "b"), "--log"]) == 1
    assert "no loss above 0" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_that_has_just_begun(tmp_path, steps):
    train(tmp_path, steps, learning_rate=None, grad_norm=None)
    draw([read_run(tmp_path)], tmp_path / "x.png")
    assert png(tmp_path / "x.png").width > 800


def test_what_cannot_be_drawn(tmp_path, capsys, monkeypatch):
    assert main(["plot", str(tmp_path)]) == 1
    assert "QwenVLMonitor" in capsys.readouterr().err
    train(tmp_path, 0)
    file = steps_file_name(tmp_path, 0)
    for content in (b"\xff\xfe", b"step,loss\ninf,1\n", b"step\n1\n"):
        file.write_bytes(content)
        assert main(["plot", str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line
    train(tmp_path, 0)
    assert main(["plot", str(tmp_path)]) == 1
    assert "no step yet" in capsys.readouterr().err
    for wrong in (["plot"], ["plot", str(tmp_path), "--smooth", "0"], ["plot", str(tmp_path), "--smooth", "x"]):
        with pytest.raises(SystemExit) as exit_code:
            main(wrong)
        assert exit_code.value.code == 2
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    train(tmp_path, 3)
    assert main(["plot", str(tmp_path)]) == 1
    assert "mindformers-qwenvl[demo]" in capsys.readouterr().err
    assert not (tmp_path / "curves.png").exists()
