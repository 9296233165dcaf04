"""The docstring of each room of the package lists the modules of that room, and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mindformers_qwenvl"
# In `cli` a module is a command, and --help lists them; of `host` the index of work-arounds is the list.
ROOMS = [init.parent for init in sorted(PACKAGE.glob("*/**/__init__.py")) if init.parent.name not in ("cli", "host")]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_the_modules_of_a_room_are_listed(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    modules = {path.stem for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    modules = {name for name in modules if not name.startswith("_")}
    assert {name for name in modules if f"`{name}`" not in text} == set()
    # Lines such as "- `one`, `two`: ...; `three`: ..." and "| `one` | ... |".
    listed = re.findall(r"(?:^[-|] |; )((?:`\w+`, )*`\w+`)(?=:| \|)", text, re.M)
    assert set(re.findall(r"\w+", " ".join(listed))) <= modules
