"""Keys of a YAML that nothing reads, usually because they are misspelt. Neither MindFormers nor MindSpore is imported.

What MindFormers knows is read from its source, as text: its defaults (mindformers/tools/register/template.py) and the
arguments of its classes. Where a section accepts any key, a key is reported only if it closely resembles a known one.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mindformers_qwenvl import recipes
from mindformers_qwenvl.checks import nearest
from mindformers_qwenvl.config.keys import HOST, OLD, OUTER, TOKENIZER
from mindformers_qwenvl.config.sizes import LANGUAGE_MODEL, SPELLINGS
from mindformers_qwenvl.versions import installed

__all__ = ["WITHOUT_HOST", "known_at_top", "unknown_keys", "warnings_of"]

WITHOUT_HOST = "MindFormers is not installed: the keys of its own sections are compared with the shipped YAMLs alone"
# Our classes: file, and the keys they take beside their arguments.
OURS = {
    "QwenVLConfig": ("config/qwenvl.py", (*LANGUAGE_MODEL, *OUTER, *HOST, *OLD)),
    "QwenConfig": ("config/language.py", (*SPELLINGS, *HOST, *OLD)),
    "QwenVLVisionConfig": ("config/vision.py", (*HOST, *OLD)),
    "QwenVLProcessor": ("data/processor.py", ()),
    "QwenVLImageProcessor": ("data/image_processor.py", ()),
    "QwenVLTokenizer": ("data/tokenizer.py", TOKENIZER),
    "QwenVLContentTransformTemplate": ("data/template.py", ()),
    "QwenVLBatchNormalize": ("data/normalise.py", ()),
    "QwenVLAdamW": ("training/optimizer.py", ()),
    "QwenVLMonitor": ("training/monitor.py", ()),
    "QwenVLAdapterMonitor": ("training/adapters.py", ()),
}
# Files of the MindFormers classes that a YAML may name.
PLACES = ("wrapper/*.py", "core/optim/*.py", "core/lr/*.py", "core/callback/*.py")
TEMPLATE = "tools/register/template.py"
# Keys of this package or of MindFormers' trainer that are in no template.
TOP = ("eval_task", "tensorboard", "checkpoint", "auto_tune", "filepath_prefix", "autotune_per_step")
ANYWHERE = ("type", "auto_register")
OPAQUE = ("pet_config", "image_policy")  # checked where they are read
ALIKE = 0.86  # the similarity of save_checkpoint_seconds and save_checkpoint_steps, both valid


def unknown_keys(content: Mapping[str, Any]) -> list[str]:
    """A sentence for each key that nothing reads, in a YAML with its bases merged.

    Args:
        content: see `recipes.read`.
    """
    found = installed("mindformers")
    return list(_Reader(found.folder if found else None).section(content, "", None))


def warnings_of(name: object, content: Mapping[str, Any]) -> list[str]:
    """Lines for the user about the YAML called `name`: what `unknown_keys` found, and a note if MindFormers is not
    installed."""
    lines = [f"warning: {name}: {sentence}" for sentence in unknown_keys(content)]
    return lines if installed("mindformers") else [*lines, f"note: {name}: {WITHOUT_HOST}"]


def known_at_top() -> set[str]:
    """Top-level keys of a YAML that something reads."""
    found = installed("mindformers")
    return _Reader(found.folder if found else None)._known({}, "", None)[0]


class _Reader:
    def __init__(self, host: Path | None):
        self.host = host
        self.template = _template(host) if host else {}

    def section(self, content: Mapping[str, Any], path: str, kind: str | None) -> Iterator[str]:
        """kind: the path, with the type of each list item instead of its number."""
        known, closed = self._known(content, path, kind)
        for key, value in content.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in known and key not in ANYWHERE:
                yield from self._judge(str(key), where, known, closed, content.get("type"))
            if path == "" and key.endswith("_task") and key != "eval_task":
                continue  # its dataset_config repeats the dataset's own section
            if isinstance(value, Mapping) and key not in OPAQUE:
                yield from self.section(value, where, f"{kind}.{key}" if kind else str(key))
            elif isinstance(value, list):
                for number, item in enumerate(value):
                    if isinstance(item, Mapping):
                        name = f"{kind}.{key}" if kind else str(key)
                        yield from self.section(item, f"{where}[{number}]", f"{name}[{item.get('type')}]")

    def _known(self, content: Mapping[str, Any], path: str, kind: str | None) -> tuple[set[str], bool]:
        """The known keys of a section, and whether any other key is an error."""
        name = content.get("type")
        if isinstance(name, str):
            arguments, closed = self._arguments(name)
            if arguments:
                return set(arguments), closed
        shipped = _shipped().get(kind or "", set())
        if path == "":
            general = self.template.get("general_config", (set(), True))[0]
            return {*TOP, *shipped, *general, *self.template}, bool(self.template)
        keys, closed = self.template.get(path, (set(), False))
        return {*shipped, *keys}, closed and bool(keys)

    def _arguments(self, name: str) -> tuple[tuple[str, ...], bool]:
        if name in OURS:
            file, more = OURS[name]
            return (*_signature(Path(__file__).parents[1] / file, name)[0], *more), True
        if name == "QwenVLTrainOneStepCell":
            own = _signature(Path(__file__).parents[1] / "training/step.py", name)[0]
            stock, _ = self._of_host("MFTrainOneStepCell")
            return ((*own, *stock), True) if stock else ((), False)
        return self._of_host(name)

    def _of_host(self, name: str) -> tuple[tuple[str, ...], bool]:
        for place in PLACES if self.host else ():
            for file in sorted(self.host.glob(place)):
                if f"class {name}(" in _source(file):
                    arguments, keywords = _signature(file, name)
                    # MFTrainOneStepCell takes any keyword, and drops what it does not know.
                    return arguments, not keywords or name.endswith("OneStepCell")
        return (), False

    def _judge(self, key: str, where: str, known: set[str], closed: bool, kind: Any) -> Iterator[str]:
        if closed:
            of = f" of {kind}" if isinstance(kind, str) else ""
            yield f"{where}: there is no such key{of}{nearest(key, known)}"
        elif like := difflib.get_close_matches(key, sorted(known), 1, ALIKE):
            yield f"{where}: likely misspelt; did you mean {like[0]}?"


@cache
def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in MindFormers' strings
            tree = ast.parse(_source(file))
    except SyntaxError:
        return {}
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@cache
def _signature(file: Path, name: str) -> tuple[tuple[str, ...], bool]:
    """Names of a class's arguments, and whether it takes any others; those of its base, if it has no __init__."""
    classes = _classes(file)
    node = classes.get(name)
    while node is not None:
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name in ("__init__", "__new__"):
                names = [argument.arg for argument in (*part.args.posonlyargs, *part.args.args, *part.args.kwonlyargs)]
                return tuple(names[1:]), part.args.kwarg is not None
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        node = classes.get(bases[0]) if bases else None
    return (), True


@cache
def _template(host: Path) -> dict[str, tuple[set[str], bool]]:
    """Name of a section -> its keys, and whether MindFormers refuses others."""
    sections = {}
    for node in _classes(host / TEMPLATE).values():
        values = {}
        for part in node.body:
            if isinstance(part, ast.Assign) and len(part.targets) == 1 and isinstance(part.targets[0], ast.Name):
                values[part.targets[0].id] = part.value
        name = values.get("_name")
        if isinstance(name, ast.Constant) and name.value:
            raises = values.get("_raise_error_for_unexpected_key")
            free = isinstance(raises, ast.Constant) and raises.value is False
            free = free or any(isinstance(base, ast.Name) and base.id != "Config" for base in node.bases)
            sections[name.value] = ({key for key in values if not key.startswith("_")}, not free)
    return sections


@cache
def _shipped() -> dict[str, set[str]]:
    """Path of a section in the shipped YAMLs -> its keys."""
    found: dict[str, set[str]] = {}

    def add(content: Mapping[str, Any], kind: str) -> None:
        found.setdefault(kind, set()).update(map(str, content))
        for key, value in content.items():
            name = f"{kind}.{key}" if kind else str(key)
            if isinstance(value, Mapping):
                add(value, name)
            elif isinstance(value, list):
                for item in value:
                    if isinstance(item, Mapping):
                        add(item, f"{name}[{item.get('type')}]")

    for name in ("finetune_qwenvl_9.6b_lora", "finetune_qwenvl_tiny", "predict_qwenvl_9.6b"):
        add(recipes.read(recipes.find(name)), "")
    return found
