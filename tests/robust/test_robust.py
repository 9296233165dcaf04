"""Small shares of `python -m tests.robust`; those with MindSpore, and the long ones, are slow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.robust import disk, kills, worst
from tests.robust.mutated import feed, feed_reader, mutate


def test_mutated_inputs_give_a_result_or_an_error_in_words():
    found = list(feed(280, seed=int(os.environ.get("ROBUST_SEED", "1"))))
    assert len(found) > 20 and all(one.read + one.refused + len(one.faults) == one.inputs for one in found)
    assert [fault for one in found for fault in one.faults] == []


def test_what_crashes_hangs_or_raises_is_found():
    """The harness itself: each kind of fault is one."""
    import random

    from tests.robust.readers import Reader

    def bad(path: Path) -> None:
        kind = path.read_bytes()[:1]
        if kind < b"\x40":
            os._exit(3)
        if kind < b"\x80":
            raise KeyError("x")
        if kind < b"\xc0":
            raise ValueError("in words")

    reader = Reader("bad", (bytes([0x20]), bytes([0x60]), bytes([0xA0]), bytes([0xE0])), bad)
    found = feed_reader(reader, 40, 0, Path("work"))
    assert found.read and found.refused and any("KeyError" in fault for fault in found.faults)
    assert any("the process ended with" in fault for fault in found.faults)
    assert found.read + found.refused + len(found.faults) == 40
    assert mutate(reader.seeds, random.Random(1)) == mutate(reader.seeds, random.Random(1))


def test_a_conversion_that_is_killed_is_done_by_the_next():
    found = kills.convert_weight(2, seed=1)
    assert (found.faults, found.same) == ([], 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", kills.COMMANDS)
def test_killed_commands(name):
    found = kills.COMMANDS[name](3, 2)
    assert found.faults == []


@pytest.mark.slow
def test_worst_inputs():
    assert worst.run() == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a tmpfs needs root")
def test_full_disks():
    assert disk.run() == 0
