"""Find, print or copy the YAMLs for run_mindformer.py that come with this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.registration import yaml_dir

EPILOG = """examples:
  # what there is
  mindformers-qwenvl yaml

  # fine-tune with one as it is, its paths given on the command line
  python run_mindformer.py --config $(mindformers-qwenvl yaml finetune_qwenvl_9.6b --path) --load_checkpoint qwenvl.ckpt

  # copy it to change it
  mindformers-qwenvl yaml finetune_qwenvl_9.6b --copy .
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this YAML (default: list all of them)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--path", action="store_true", help="print where it is, not what it says")
    what.add_argument("--copy", type=Path, metavar="DIR", help="copy it, or all of them, into DIR")
    parser.add_argument("--force", action="store_true", help="with --copy: overwrite files that are there already")


def run(args: argparse.Namespace) -> int:
    """List, print or copy; returns 0. An unknown name, or a file in the way, raises ValueError."""
    files = [_find(args.name)] if args.name else sorted(yaml_dir().glob("*.yaml"))
    if args.copy is not None:
        for target in _copy(files, args.copy, args.force):
            print(target)
    elif args.path:
        for file in files:
            print(file)
    elif args.name:
        print(files[0].read_text(encoding="utf-8"), end="")
    else:
        width = max(len(file.stem) for file in files)
        for file in files:
            print(f"{file.stem:{width}}  {_summary(file)}")
    return 0


def _find(name: str) -> Path:
    file = yaml_dir() / f"{name.removesuffix('.yaml')}.yaml"
    if file.parent != yaml_dir() or not file.is_file():
        names = ", ".join(sorted(file.stem for file in yaml_dir().glob("*.yaml")))
        raise ValueError(f"no YAML {name!r}; there are {names}")
    return file


def _copy(files: list[Path], folder: Path, force: bool) -> list[Path]:
    """Copy into `folder`, which is made if need be; nothing is written if a file is in the way."""
    targets = [folder / file.name for file in files]
    in_the_way = [str(target) for target in targets if target.exists()]
    if in_the_way and not force:
        raise ValueError(f"there already: {', '.join(in_the_way)}; --force overwrites")
    folder.mkdir(parents=True, exist_ok=True)
    for file, target in zip(files, targets, strict=True):
        with replacing(target) as copy:
            copy.write(file.read_bytes())
    return targets


def _summary(file: Path) -> str:
    """The first sentence of the comment that the file begins with."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".")
