"""The host for a benchmark: on the CPU, and without its lines among the figures."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

__all__ = ["prepare", "quiet"]


def quiet() -> None:
    """Import MindFormers without its messages on standard output; its logs go to a folder that goes at the end."""
    from mindformers_qwenvl.cli._generation import import_host

    folder = tempfile.mkdtemp(prefix="bench_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["LOCAL_DEFAULT_PATH"] = folder
    import_host()


def prepare(threads: int) -> None:
    """Import MindFormers as `quiet` does, and have MindSpore compute graphs with `threads` threads. What it writes into
    the current folder goes into an empty one."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    quiet()
    os.chdir(os.environ["LOCAL_DEFAULT_PATH"])
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU", runtime_num_threads=threads)
