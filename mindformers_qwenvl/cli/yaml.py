"""Find, print or copy the YAMLs for run_mindformer.py that come with this package.

finetune_qwenvl_9.6b is the full recipe, with a comment on every key. The other finetune_qwenvl_9.6b_* build on it by
`base_config:`, as MindFormers reads it, and list only what they change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindformers_qwenvl import recipes
from mindformers_qwenvl.checks import nearest
from mindformers_qwenvl.files import replacing

EPILOG = """examples:
  # list them
  mindformers-qwenvl yaml

  # copy one, and what it builds on, to change it
  mindformers-qwenvl yaml finetune_qwenvl_9.6b_bf16 --copy .

  # all that MindFormers would see of a shipped YAML, or of your own
  mindformers-qwenvl yaml finetune_qwenvl_9.6b_bf16 --resolved
  mindformers-qwenvl yaml my.yaml --resolved

  # use one as it is
  python run_mindformer.py --config $(mindformers-qwenvl yaml predict_qwenvl_9.6b --path) --load_checkpoint qwenvl.ckpt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="print this YAML (default: list all of them); with --resolved, it may also be a path",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--path", action="store_true", help="print its path")
    what.add_argument("--copy", type=Path, metavar="DIR", help="copy it and what it builds on, or all YAMLs, into DIR")
    parser.add_argument(
        "--resolved", action="store_true", help="print or copy it as one YAML without base_config and comments"
    )
    parser.add_argument("--force", action="store_true", help="with --copy: overwrite NAME if it is there already")
    parser.set_defaults(usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """List, print or copy; returns 0. An unknown name, or a file in the way, raises ValueError or OSError."""
    if args.resolved and (args.name is None or args.path):
        args.usage("--resolved needs NAME, and cannot be used with --path")
    if args.resolved:
        file = _find_any(args.name)
        text = f"# {file.stem}, with what it builds on: all values, no comments\n{recipes.dump(recipes.read(file))}"
        if args.copy is None:
            print(text, end="")
        else:
            _write({args.copy / f"{file.stem}.yaml": text.encode()}, args.force)
        return 0
    files = [_find(args.name)] if args.name else [_find(name) for name in recipes.shipped()]
    if args.copy is not None:
        _copy(files, args.copy, args.force)
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
    stem = name.removesuffix(".yaml")
    if stem not in recipes.shipped():
        near = nearest(stem, recipes.shipped())
        raise ValueError(f"there is no YAML {name!r}{near}; the YAMLs are {', '.join(recipes.shipped())}")
    return recipes.yaml_dir() / f"{stem}.yaml"


def _find_any(name: str) -> Path:
    file = recipes.find(name)
    return file if file.exists() else _find(name)


def _copy(files: list[Path], folder: Path, force: bool) -> None:
    """Copy `files`, and what they build on. A base that is there already, with changes of the user, is left alone."""
    wanted = dict.fromkeys(files)
    bases = dict.fromkeys(base for file in files for base in recipes.chain(file) if base not in wanted)
    kept = [base for base in bases if _differs(folder / base.name, base.read_bytes())]
    _write({folder / file.name: file.read_bytes() for file in (*wanted, *bases) if file not in kept}, force)
    for base in kept:
        print(f"{folder / base.name} was there and has changes: left as it is", file=sys.stderr)


def _write(contents: dict[Path, bytes], force: bool) -> None:
    """Write files and print their names. Nothing is written if one is in the way."""
    in_the_way = [str(target) for target, content in contents.items() if _differs(target, content)]
    if in_the_way and not force:
        raise ValueError(f"already there, with other content: {', '.join(in_the_way)}; --force overwrites")
    for target, content in contents.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(content)
        print(target)


def _differs(target: Path, content: bytes) -> bool:
    return target.exists() and (not target.is_file() or target.read_bytes() != content)


def _summary(file: Path) -> str:
    """The first sentence of the comment that the file begins with."""
    comment = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".")
