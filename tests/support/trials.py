"""The datasets of tests/golden/trials, see the README there."""

from __future__ import annotations

from pathlib import Path

TRIALS = Path(__file__).parents[1] / "golden" / "trials"
