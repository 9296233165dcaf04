"""Weight files that need another library to be read: PyTorch's, and MindSpore's .ckpt. Imported only when met."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MindSporeFile", "TorchFile"]


class TorchFile:
    """One PyTorch .bin/.pt file: weights-only (its pickle is never executed) and mapped into memory, not read in."""

    def __init__(self, path: Path):
        self.path = path
        self._tensors: dict[str, Any] | None = None

    def _load(self) -> dict[str, Any]:
        if self._tensors is not None:
            return self._tensors
        try:
            import torch
        except ImportError:
            raise ImportError(
                f"{self.path} is a PyTorch file, and PyTorch is not installed. "
                "Install it (pip install 'mindformers-qwenvl[torch]'), or get the checkpoint as safetensors"
            ) from None
        try:
            state = self._torch_load(torch)
        except pickle.UnpicklingError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self.path} was refused: it holds more than tensors, or is damaged ({reason})") from None
        except (RuntimeError, EOFError) as error:
            raise ValueError(f"{self.path} is no PyTorch checkpoint, or is damaged ({error})") from None
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError(f"{self.path}: expected a dict of tensors (a state dict)")
        self._tensors = state
        return state

    def _torch_load(self, torch: Any) -> Any:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            # Files from before PyTorch 1.6 are not zip archives and cannot be mapped.
            return torch.load(self.path, map_location="cpu", weights_only=True)

    def infos(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        codes = {"torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float32": "F32"}
        return {
            name: (codes.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape))
            for name, tensor in self._load().items()
        }

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        import torch

        numbers = self._load()[name].detach().reshape(-1)[start:stop]
        if numbers.dtype == torch.bfloat16:
            return numbers.view(torch.int16).numpy().view(np.uint16)
        return numbers.numpy()

    def release(self) -> None:
        self._tensors = None


class MindSporeFile:
    """One MindSpore .ckpt file, read by MindSpore itself: the whole file is in memory while it is open."""

    def __init__(self, path: Path):
        self.path = path
        self._parameters: dict[str, Any] | None = None
        self._flat: tuple[str, np.ndarray] | None = None

    def _load(self) -> dict[str, Any]:
        if self._parameters is None:
            import mindspore

            loaded = mindspore.load_checkpoint(str(self.path))
            # Strings and numbers are notes about the training, not weights.
            self._parameters = {name: value for name, value in loaded.items() if hasattr(value, "asnumpy")}
        return self._parameters

    def infos(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        codes = {"Float16": "F16", "BFloat16": "BF16", "Float32": "F32"}
        return {
            name: (codes.get(str(value.dtype), str(value.dtype)), tuple(value.shape))
            for name, value in self._load().items()
        }

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        if self._flat is None or self._flat[0] != name:
            array = self._load()[name].asnumpy()
            if array.dtype.itemsize == 2 and array.dtype != np.float16:  # MindSpore's own numpy bfloat16
                array = array.view(np.uint16)
            self._flat = name, array.reshape(-1)
        return self._flat[1][start:stop]

    def release(self) -> None:
        """Kept until the checkpoint is closed for good: loading it again would cost more than holding it."""
