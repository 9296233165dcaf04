"""The bar on a pseudo-terminal, of the usual width and of one that nobody has told its size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from types import SimpleNamespace

import pytest

from mindformers_qwenvl.launch.progress import Progress, _total
from mindformers_qwenvl.launch.quiet import Screen


@pytest.fixture
def drawn():
    """`drawn(columns, rows)`: what the bar draws of these rows, one text a step, with line feeds at the end."""
    opened = []

    def draw(columns: int, total: int, *rows: dict) -> list[str]:
        controller, terminal = pty.openpty()
        opened.append(controller)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
        with os.fdopen(terminal, "w", encoding="utf-8") as err:
            progress = Progress(Screen(err, err, None, True))
            progress.total = total
            for row in rows:
                progress._draw(row)
                progress.bar.refresh()
            progress.close()
            err.flush()
            text = os.read(controller, 1 << 16).decode()
        return [line for line in re.split(r"\r", text) if line.strip()]

    yield draw
    for controller in opened:
        os.close(controller)


@pytest.mark.parametrize("columns", [80, 0])
def test_the_bar_fits_and_says_all(drawn, columns):
    row = {"loss": 8.3518, "learning_rate": 2.9e-4, "tokens_per_s": 12345.6}
    lines = drawn(columns, 5000, {**row, "step": 1000}, {**row, "step": 1001})
    assert all(len(line) <= 80 for line in lines)
    said = r" 20%\|.+\| step 1001/5000, loss 8\.3518, lr 2\.90e-04, 12,346 tokens/s, [\d:?]+ left"
    assert re.fullmatch(said, lines[-1].rstrip()), lines


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (1, {"epoch_num": 2, "cur_epoch_num": 1}),
        (3, {"epoch_num": 2, "cur_epoch_num": 1}),  # resumed within the first epoch
        (126, {"epoch_num": 1, "cur_epoch_num": 2}),  # resumed after it
        (130, {"epoch_num": 1, "cur_epoch_num": 2}),  # resumed within the second
    ],
)
def test_the_last_step_of_a_run(step, told):
    assert _total(SimpleNamespace(batch_num=125, **told), step) == 250
