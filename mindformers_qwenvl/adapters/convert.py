"""What `convert-weight` does with adapters: merging one during a conversion, and converting one to peft's format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mindformers_qwenvl.adapters.merge import Change, Merged
from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.settings import AdapterSettings
from mindformers_qwenvl.adapters.tensors import factor_of
from mindformers_qwenvl.adapters.writer import factor_tensors, peft_settings, write_adapter
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.opening import opened
from mindformers_qwenvl.weights.shapes import listed, original_shapes

__all__ = ["Merging", "export_adapter"]

LINES = 16  # for single modules; if there are more, they are summarised by kind


class Merging:
    """The `overlay` of a conversion that merges an adapter: one in a directory, or one among a training's own weights.

    Args:
        adapter: its directory; None: the checkpoint's own adapter, if it has one.
        settings: of the checkpoint's own adapter, from the YAML of its training.
    """

    def __init__(self, adapter: str | os.PathLike | None = None, settings: AdapterSettings | None = None):
        self.path = None if adapter is None else Path(adapter)
        self.settings = settings
        self.merged: Merged | None = None
        self._idle: list[str] | None = None

    def __call__(self, checkpoint: Readable, config: dict[str, Any], dtype: str | None) -> Readable:
        """The checkpoint with the adapter merged; the checkpoint itself if there is no adapter.

        Raises:
            FileNotFoundError, ValueError: see `Adapter`; or the checkpoint's adapter comes without its settings.
        """
        shapes = original_shapes(config)
        own = any(factor_of(name) for name in checkpoint.tensors)
        if self.path is not None:
            adapter = Adapter(self.path, shapes)
        elif not own:
            return checkpoint
        elif self.settings is None:
            raise ValueError(
                f"{checkpoint.path} holds an adapter among its weights, but not the scale to merge it with: give "
                "--config the YAML of its training, or --adapter the directory output/adapter/step_N of the same step"
            )
        else:
            adapter = Adapter(checkpoint.path, shapes, self.settings, checkpoint)
        self.merged = Merged(checkpoint, adapter, dtype)
        return self.merged

    @property
    def warnings(self) -> list[str]:
        """What a user should know, in words."""
        if self.merged is None:
            return []
        adapter = self.merged.adapter
        found = list(adapter.warnings)
        idle = self._idle = adapter.idle() if self._idle is None else self._idle  # reads all factors
        if idle and len(idle) == len(adapter.targets) and not adapter.saved:
            found.append(f"{adapter.path} changes nothing: its product B A is zero everywhere. Was it trained at all?")
        elif idle:
            found.append(f"{adapter.path} changes nothing in {listed(idle, limit=6)}: its product B A is zero there")
        return found

    def changes(self) -> list[Change]:
        """How much each module was changed; only modules whose rows have all been read."""
        return [] if self.merged is None else self.merged.changes()

    def lines(self) -> list[str]:
        """The report of the merge, and its warnings."""
        if self.merged is None:
            return []
        adapter, changes = self.merged.adapter, self.changes()
        whole = f", and {len(adapter.saved)} tensors replaced" if adapter.saved else ""
        lines = [f"merged   {len(adapter.targets)} modules{whole}: {adapter.path}"]
        if changes:
            lines.append("         size of the change: norm of what was added / norm of the weight")
            lines += [f"           {text}" for text in _sizes(changes)]
        if len(changes) < len(adapter.targets):
            lines.append(f"         {len(adapter.targets) - len(changes)} modules were merged by an earlier run")
        return [*lines, *(f"WARNING  {warning}" for warning in self.warnings)]

    def as_dict(self) -> dict[str, Any]:
        """Module -> size of the change, for JSON."""
        return {change.module: round(change.size, 8) for change in self.changes()}


def _sizes(changes: list[Change]) -> list[str]:
    if len(changes) <= LINES:
        return [f"{change.size:.4f}  {change.module}" for change in changes]
    kinds: dict[str, list[Change]] = {}
    for change in changes:
        name = ".".join("N" if part.isdigit() else part for part in change.module.split("."))
        kinds.setdefault(name, []).append(change)
    lines = []
    for name, of_kind in kinds.items():
        least, most = (pick(of_kind, key=lambda change: change.size) for pick in (min, max))
        lines.append(f"{least.size:.4f} to {most.size:.4f}  {name} ({len(of_kind)}; the most in {most.module})")
    return lines


def export_adapter(
    source: str | os.PathLike,
    output: str | os.PathLike,
    config: dict[str, Any],
    settings: AdapterSettings | None = None,
    strategy: str | os.PathLike | None = None,
    base: str | None = None,
) -> tuple[AdapterSettings, int]:
    """Write an adapter in peft's format, from an adapter in another form or from a training's checkpoint.

    Args:
        source: an adapter's directory, also that of MindFormers' own LoRA; or a training's checkpoint: a file, or its
            rank_* folders.
        config: the original's config.json, or one like it.
        settings: of the checkpoint's adapter.
        strategy: see `Checkpoint`.

    Returns:
        Its settings, and how many tensors were written.

    Raises:
        FileNotFoundError, ValueError: see `Adapter`; or `output` exists and is not an adapter.
    """
    source, output, shapes = Path(source), Path(output), original_shapes(config)
    if output.exists() and not (output / "adapter_config.json").is_file():
        raise ValueError(f"{output} exists and is not an adapter: give another output path")
    if output.exists() and source.resolve() in (
        output.resolve(),
        *output.resolve().parents,
        output.resolve() / source.name,
    ):
        raise ValueError(f"{output} is the input: give another output path")
    if settings is None:
        adapter = Adapter(source, shapes)
    else:
        checkpoint = opened(source, config, strategy)
        adapter = Adapter(source, shapes, settings, checkpoint)
    with adapter:
        written, tensors = peft_settings(adapter), factor_tensors(adapter)
        written = AdapterSettings(**{**vars(written), "base": base or written.base})
        write_adapter(output, written, tensors)
    return written, len(tensors)


def write_sizes(folder: Path, merging: Merging) -> None:
    """adapter_merge.json: what was merged, and how much it changed."""
    adapter = merging.merged.adapter
    content = {
        "adapter": str(adapter.path),
        "settings": adapter.settings.as_dict(),
        "size_of_change": merging.as_dict(),
    }
    (folder / "adapter_merge.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
