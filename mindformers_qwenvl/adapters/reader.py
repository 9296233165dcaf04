"""An adapter directory, opened: which of the original's modules it changes, and how. numpy alone.

The targets are read from the names of the tensors, never from `target_modules`, which other tools fill in their own
ways. Opening reads only headers; factors are read when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers_qwenvl.adapters.blocks import block_diagonal
from mindformers_qwenvl.adapters.settings import CONFIG_FILE, AdapterSettings, is_saved, read_settings
from mindformers_qwenvl.adapters.tensors import (
    EMBEDDING_A,
    EMBEDDING_B,
    MAGNITUDE,
    SAVED,
    A,
    B,
    TensorName,
    adapter_names,
    factor_of,
    parse_name,
)
from mindformers_qwenvl.weights.convert.dtypes import STORAGE, widen
from mindformers_qwenvl.weights.formats.readable import Readable, TensorInfo
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["FILES", "Adapter", "Target"]

FILES = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.ckpt")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Target:
    """What an adapter does to one module: `scale` * B A is added to its weight.

    Attributes:
        a, b: names of the stored factors; for a module in parts (q, k, v) one each, or one A for all of them.
        magnitude: DoRA's, or None.
        rank: of all parts together.
        embedding: the factors are those of an embedding, stored for the transposed weight.
    """

    module: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    rank: int
    scale: float
    magnitude: str | None = None
    embedding: bool = False


class Adapter:
    """A LoRA adapter in a folder that peft, ms-swift, LLaMA-Factory or this package wrote. A context manager.

    Attributes:
        path: the folder, or the file of tensors in it.
        settings: see `AdapterSettings`.
        targets: module of the original -> `Target`, in the order of the file.
        saved: tensor of the original -> name of the stored tensor that replaces it (`modules_to_save`).
        warnings: what a user should know, in words.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        shapes: Shapes,
        settings: AdapterSettings | None = None,
        checkpoint: Readable | None = None,
    ):
        """Open the adapter at `path`.

        Args:
            path: the folder, or the file in it with the tensors.
            shapes: of the base model's tensors, under the original's names: see `original_shapes`.
            settings: instead of those in adapter_config.json.
            checkpoint: an opened checkpoint of a training, with an adapter among its weights, which is read.

        Raises:
            FileNotFoundError: there is no adapter at `path`.
            ValueError: it is of an unknown kind, is damaged, or does not fit the base model; all faults are named.
        """
        self.path = Path(path)
        if checkpoint is None:
            folder = self.path if self.path.is_dir() else self.path.parent
            if settings is None:
                if not self.path.exists():
                    raise FileNotFoundError(f"{self.path} does not exist; expected the folder of an adapter")
                settings = read_settings(folder / CONFIG_FILE)
            checkpoint = Checkpoint(_tensor_file(self.path))
            said = [folder / CONFIG_FILE] if (folder / CONFIG_FILE).is_file() else []
            self.files, names = [*checkpoint.files, *said], list(checkpoint.tensors)
        else:
            self.files, names = [], [name for name in checkpoint.tensors if factor_of(name)]
        if settings is None:
            raise ValueError(f"{self.path} holds an adapter among its weights, but not its settings")
        self.settings = settings
        self._checkpoint = checkpoint
        self.targets: dict[str, Target] = {}
        self.saved: dict[str, str] = {}
        self.warnings: list[str] = [f"{self.path}: {note}" for note in settings.notes]
        self._faults: list[str] = []
        self._parts: dict[str, tuple[int, tuple[int, ...]]] = {}
        try:
            self._find(names, shapes)
            if self._faults:
                raise ValueError(f"{self.path} does not fit the base model.\n  " + "\n  ".join(self._faults))
        except BaseException:
            self.close()
            raise

    def _find(self, names: Iterable[str], shapes: Shapes) -> None:
        parsed: dict[str, TensorName] = {}
        factors: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for name in names:
            if (dtype := self._checkpoint.tensors[name].dtype) not in STORAGE:
                self._faults.append(f"{name} is {dtype}, expected F16, BF16 or F32")
                continue
            if factor := factor_of(name):
                factors.setdefault((factor.module, factor.kind), []).append((factor.index, factor.of, name))
                continue
            parsed[name] = known = parse_name(name)
            if known.kind == SAVED:
                self._add_saved(known.module, name, shapes)
            else:
                factors.setdefault((known.module, known.kind), []).append((0, 1, name))
        if len(several := adapter_names(list(parsed.values()))) > 1:
            raise ValueError(f"{self.path} holds several adapters ({listed(sorted(several))}); save them one by one")
        for module in dict.fromkeys(module for module, _ in factors):
            self._add_target(module, factors, shapes)
        wanted = self.settings.modules_to_save
        if lost := [name for name in wanted if not any(is_saved(tensor, (name,)) for tensor in self.saved)]:
            self.warnings.append(
                f"{self.path}: modules_to_save names {listed(lost)}, but the file has no tensors of "
                f"{'it' if len(lost) == 1 else 'them'}: what was trained there is lost (the original's finetune.py "
                "ends by saving the lora_ tensors only), and answers will differ from those seen in training"
            )
        if not self.targets and not self.saved and not self._faults:
            raise ValueError(f"{self.path} holds no tensors of an adapter: found {listed(list(parsed)[:5]) or 'none'}")

    def _add_saved(self, tensor: str, name: str, shapes: Shapes) -> None:
        info = self._checkpoint.tensors[name]
        if tensor not in shapes:
            self._faults.append(f"{name} is not a tensor of this model or of a LoRA adapter")
        elif tuple(info.shape) != tuple(shapes[tensor]):
            self._faults.append(f"{name} is {list(info.shape)}, the model's {tensor} is {list(shapes[tensor])}")
        elif tensor in self.saved:
            self._faults.append(f"{name} and {self.saved[tensor]} are both {tensor}")
        else:
            self.saved[tensor] = name

    def _add_target(self, module: str, factors: Mapping[tuple[str, str], list], shapes: Shapes) -> None:
        weight = f"{module}.weight"
        embedding = (module, EMBEDDING_A) in factors or (module, EMBEDDING_B) in factors
        kinds = (EMBEDDING_A, EMBEDDING_B) if embedding else (A, B)
        pair = [sorted(factors.get((module, kind), [])) for kind in kinds]
        shape = shapes.get(weight) or shapes.get(f"{module}_weight")  # MultiheadAttention's in_proj_weight
        if shape is None or len(shape) != 2:
            names = [name for kind in (*kinds, MAGNITUDE) for _, _, name in factors.get((module, kind), [])]
            self._faults.append(f"{listed(names)}: the model has no layer {module}")
            return
        places = [[(index, of) for index, of, _ in one] for one in pair]
        shared = (
            places[0] == [(0, 1)]
            and places[1]
            and places[1] == [(index, len(places[1])) for index in range(len(places[1]))]
        )
        alone = places[0] == places[1] and len(set(places[0])) == len(places[0]) > 0
        if not (shared or alone):
            have = [name for one in pair for _, _, name in one]
            lacks = kinds[0] if not pair[0] else kinds[1]
            self._faults.append(f"{listed(have) or module}: its partner {lacks} is missing")
            return
        magnitudes = [name for _, _, name in factors.get((module, MAGNITUDE), [])]
        rank = self.settings.rank_of(module)
        of = places[1][0][1]
        wanted = self._wanted(shape, rank, of, embedding)
        wrong = [
            f"{name} is {list(self._checkpoint.tensors[name].shape)}, expected {list(size)}"
            for one, size in zip(pair, wanted, strict=True)
            for _, _, name in one
            if tuple(self._checkpoint.tensors[name].shape) != size
        ]
        wrong += [
            f"{name} has {self._checkpoint.tensors[name].size} numbers, expected {shape[0]}"
            for name in magnitudes
            if self._checkpoint.tensors[name].size != shape[0]
        ]
        if wrong:
            self._faults.append(f"{'; '.join(wrong)} for {weight} {list(shape)} at rank {rank}")
            return
        if bool(magnitudes) != self.settings.dora and (magnitudes or not embedding):
            which = (
                "it has a magnitude vector, but use_dora is false"
                if magnitudes
                else "it has no magnitude vector, but use_dora is true"
            )
            self._faults.append(f"{module}: {which}")
            return
        a, b = (tuple(name for _, _, name in one) for one in pair)
        self.targets[module] = Target(
            module,
            a,
            b,
            rank * (1 if shared else len(a)),
            self.settings.scale(module),
            magnitudes[0] if magnitudes else None,
            embedding,
        )
        if of > 1 and not shared:
            self._parts[module] = (of, tuple(index for index, _ in places[0]))

    @staticmethod
    def _wanted(shape: tuple[int, ...], rank: int, of: int, embedding: bool) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, columns = shape
        if embedding:  # weight [vocabulary, width]; A is [rank, vocabulary], B [width, rank]
            return (rank, rows), (columns, rank)
        return (rank, columns), (rows // of, rank)

    def info(self, stored: str) -> TensorInfo:
        return self._checkpoint.tensors[stored]

    def factors(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """A float32 [rank, in] and B float32 [out, rank] of a module."""
        target = self.targets[module]
        a, b = ([self._array(name) for name in names] for names in (target.a, target.b))
        if target.embedding:
            return np.ascontiguousarray(b[0].T), np.ascontiguousarray(a[0].T)
        if module in self._parts:
            return block_diagonal(a, b, *self._parts[module])
        return a[0], b[0] if len(b) == 1 else np.concatenate(b)

    def magnitude(self, module: str) -> np.ndarray | None:
        """DoRA's magnitudes float32 [out], or None."""
        name = self.targets[module].magnitude
        return None if name is None else self._array(name).reshape(-1)

    def _array(self, name: str) -> np.ndarray:
        info = self._checkpoint.tensors[name]
        return widen(self._checkpoint.read(name), info.dtype).reshape(info.shape)

    def read_saved(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Numbers [start, stop) of the flattened tensor that replaces the original's `tensor`, float32."""
        name = self.saved[tensor]
        return widen(self._checkpoint.read(name, start, stop), self._checkpoint.tensors[name].dtype)

    def idle(self) -> list[str]:
        """Modules whose weight the adapter leaves exactly as it is: B (or A, or the scale) is all zeros."""
        found = []
        for module, target in self.targets.items():
            if target.magnitude is None and (target.scale == 0 or any(not f.any() for f in self.factors(module))):
                found.append(module)
        return found

    def close(self) -> None:
        self._checkpoint.close()

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensor_file(path: Path) -> Path:
    if path.is_file() and path.name != CONFIG_FILE:
        return path
    folder = path if path.is_dir() else path.parent
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    inside = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG_FILE}"))
    hint = f"; give one of the adapters in it: {listed(inside)}" if inside else ""
    raise FileNotFoundError(f"{folder} holds none of {', '.join(FILES)}{hint}")
