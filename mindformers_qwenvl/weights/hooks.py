"""What stock MindFormers asks a network for when a YAML loads an original checkpoint (`load_ckpt_format: safetensors`).

Host: mindformers/utils/load_checkpoint_utils.py and utils/safetensors (1.9). It lists a folder's names, calls
`convert_name` on each to learn whether the folder is an original one, then `convert_weight_dict` on what it has read.
The network's class methods of these names only call these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindformers_qwenvl.config.original import ADAPTER, read_original
from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX, Checkpoint
from mindformers_qwenvl.weights.names import is_dropped, layout, to_ours
from mindformers_qwenvl.weights.shapes import check_shapes, listed, original_shapes

__all__ = ["convert_map_dict", "convert_name", "convert_weight_dict", "obtain_name_map", "refuse_incomplete"]


def convert_name(name: str) -> str:
    """Our (first) name for an original tensor; any other name, ours and optimizer state included, unchanged.

    The host treats a folder as an original one as soon as one name changes here, so ours must not change.
    """
    try:
        return (to_ours(name) or (name,))[0]
    except ValueError:
        return name


def _split(source: Mapping[str, Any]) -> Iterable[tuple[str, Any, tuple[str, ...]]]:
    unknown, known = [], []
    for name, value in source.items():
        try:
            known.append((name, value, to_ours(name)))
        except ValueError:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors do not belong to an original Qwen-VL checkpoint: {listed(sorted(unknown))}"
        )
    return known


def convert_weight_dict(source_dict: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Rename and split a dict of original tensors (numpy arrays or MindSpore Parameters).

    Raises:
        ValueError: names that the original does not have; all are listed.
    """
    result = {}
    for _name, value, parts in _split(source_dict):
        rows = value.shape[0] // len(parts) if parts else 0
        for index, part in enumerate(parts):
            piece = value if len(parts) == 1 else value[index * rows : (index + 1) * rows]
            result[part] = _as_parameter(piece, part) if hasattr(value, "asnumpy") else piece
    return result


def _as_parameter(value: Any, name: str) -> Any:
    from mindspore import Parameter

    # load_param_into_net names the parameter in its messages, so a renamed one must know its new name.
    return Parameter(value, name=name)


def convert_map_dict(source_dict: Mapping[str, str], **_: Any) -> dict[str, str]:
    """As `convert_weight_dict`, for an index: original name -> file becomes our name -> file."""
    return {part: file for _name, file, parts in _split(source_dict) for part in parts}


def obtain_name_map(load_checkpoint_files: Iterable[str]) -> dict[str, str]:
    """Our name -> name in the files, for the host's distributed loading.

    Raises:
        ValueError: the files are original ones: some tensors become three of ours, which a map of names cannot say.
    """
    from safetensors import safe_open

    names: list[str] = []
    for file in load_checkpoint_files:
        with safe_open(file, framework="np") as opened:
            names.extend(opened.keys())
    if layout(names, "the checkpoint to load") == "original":
        raise ValueError(
            "distributed loading cannot split the original's fused q, k, v: convert the checkpoint first, with "
            "`mindformers-qwenvl convert-weight --input_path HF_DIR --output_path OUT_DIR`, and load OUT_DIR"
        )
    return {name: name for name in names}


def refuse_incomplete(path: str, key: str = "load_checkpoint") -> None:
    """Raise ValueError if the folder `path`, given by the setting `key`, lacks shards or tensors. Reads only headers.

    MindFormers would warn of missing tensors and train on with random ones. Folders of ranks, and folders without
    original names, may hold only a part on purpose: for these, only the index is checked.
    """
    folder = Path(path)
    if not folder.is_dir() or folder.name.startswith("rank_") or any(folder.glob("rank_*")):
        return
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{key}: {path} is a LoRA adapter, not a model: give the weights of the model, and name the adapter in "
            "model_config.pet_config"
        )
    if not any(folder.rglob("*.safetensors")) and any(folder.glob("pytorch_model*.bin")):
        raise ValueError(
            f"{key}: {path} holds PyTorch's .bin files, but load_ckpt_format: safetensors expects .safetensors; "
            f"convert them with `mindformers-qwenvl convert-weight --input_path {path} --output_path NEW_DIR`, and "
            "load NEW_DIR"
        )
    has_index = (folder / SAFETENSORS_INDEX).is_file()
    if not has_index and not any(folder.glob("*.safetensors")):
        return
    try:
        with Checkpoint(folder) as checkpoint:
            shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    except (OSError, ValueError) as error:
        if has_index:
            raise ValueError(f"{key}: {error}") from None
        return  # several checkpoints in one folder, or files that the host itself cannot read
    if any(name.endswith(".qweight") for name in shapes):
        raise ValueError(
            f"{key}: {path} holds quantised weights; make plain ones with `mindformers-qwenvl convert-weight "
            f"--input_path {path} --output_path NEW_DIR`, and load NEW_DIR"
        )
    if expected := _expected(folder, shapes):
        check_shapes(
            {name: shape for name, shape in shapes.items() if not is_dropped(name)}, expected, f"{key}: {path}"
        )


def _expected(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes that the config.json of an original folder describes; empty for other folders."""
    try:
        return original_shapes(read_original(folder)) if layout(names, str(folder)) == "original" else {}
    except (OSError, ValueError):  # no config.json, or one of another model, such as the language model alone
        return {}
