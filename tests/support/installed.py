"""Throw-away environments with this project installed as a user has it, for tests and benchmarks in fresh processes.

They see the packages of the running environment (MindFormers and all it needs) without a second download, through a
folder of links to all of them but this project.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
OWN = ("mindformers_qwenvl", "_mindformers_qwenvl", "__editable__")


@dataclass(frozen=True)
class Environment:
    """A virtual environment at `root`."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.root / "lib").glob("python3*")) / "site-packages"

    def files(self) -> set[str]:
        """Everything in it but compiled files."""
        inside = (path for path in self.root.rglob("*") if self.root / "outer" not in path.parents)
        found = (path.relative_to(self.root).as_posix() for path in inside)
        return {name for name in found if "__pycache__" not in name}

    def run(self, *args: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run Python in it, without the plugin switches of the outside, with the variables `env`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINDFORMERS_", "PYTHON"))}
        done = subprocess.run(
            [str(self.python), *args], cwd=cwd, env={**kept, **env}, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
        return done

    def pip(self, *args: str) -> None:
        """Run the outer environment's pip on it."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "-q", "--disable-pip-version-check"]
        subprocess.run([*command, *args], check=True, capture_output=True, text=True)


def new_environment(root: Path) -> Environment:
    """An environment that has everything but this project."""
    venv.create(root, symlinks=True, with_pip=False)
    environment = Environment(root)
    outer = root / "outer"
    outer.mkdir()
    for folder in map(Path, site.getsitepackages()):
        for entry in folder.iterdir():
            if not entry.name.startswith(OWN) and entry.suffix != ".pth" and not (outer / entry.name).exists():
                (outer / entry.name).symlink_to(entry)
    (environment.packages / "outer.pth").write_text(f"{outer}\n")
    return environment


def build_wheel(folder: Path) -> Path:
    """Build this project's wheel into `folder`."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(PROJECT)], check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))
