"""Our own operators for decoding on a CPU: compiled on first use, checked, and cached for the user.

MindSpore's product of one row reads a matrix at about half of the memory's bandwidth, and starting some 400 operators
for each token costs a third of the products' time. kernels.cpp has a product of 1 to 8 rows and a whole decoder layer.

They need a C++ compiler: the one that CXX names, or c++, g++ or clang++. Without one, or where compiling, loading or
the check against numpy fails, MindSpore's operators do the work, and the log says so in one line.
`MINDFORMERS_QWENVL_KERNELS=off` switches them off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mindformers.tools.logger import logger
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindformers_qwenvl.files import cache_folder, check_private

__all__ = [
    "MOST_ROWS",
    "SWITCH",
    "DecoderLayer",
    "LinearRows",
    "NoKernels",
    "build",
    "compiled_file",
    "is_off",
    "library",
]

SWITCH = "MINDFORMERS_QWENVL_KERNELS"
SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
MOST_ROWS = 8  # as in kernels.cpp
COMPILE_SECONDS = 300


class NoKernels(Exception):
    """There are no kernels; the message says why."""


@functools.cache
def library() -> str | None:
    """Path of the compiled library, built if needed; None if it is switched off, or not available, which is logged."""
    if is_off():
        return None
    try:
        path = build()
        loaded = ctypes.CDLL(str(path))  # MindSpore's own dlopen of this file gives the same instance
    except (NoKernels, OSError) as error:
        logger.warning("Decoding uses MindSpore's operators, not the faster kernels of this package: %s", error)
        return None
    loaded.SetThreads(threads())
    return str(path)


def is_off() -> bool:
    """Whether the environment switches them off."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no")


def threads() -> int:
    """Threads of the operators: OMP_NUM_THREADS, else the processors that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0))
    return min(int(wanted), here) if wanted.isdecimal() and int(wanted) else here


def build() -> Path:
    """Compile the operators, unless that has been done for this source, compiler and processor.

    Raises:
        NoKernels: there is no compiler, it fails, the result is wrong, or the cache folder is not safe.
    """
    path = compiled_file()
    if path.exists():
        _check_owner(path)
        return path
    compiler = _compiler()
    descriptor, name = tempfile.mkstemp(prefix=".kernels-", suffix=".so", dir=path.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        _run([compiler, *FLAGS, "-o", name, str(SOURCE)], "compiling")
        # In a separate process: an instruction that this processor does not have would kill this one.
        _run([sys.executable, "-I", "-c", _CHECK, name], "the check against numpy")
        unfinished.chmod(0o700)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def compiled_file() -> Path:
    """Where `build` puts the library, whether or not it is there.

    Raises:
        NoKernels: there is no compiler, or the cache folder is not safe.
    """
    return _cache_folder() / f"kernels-{_key(_compiler())}.so"


def _compiler() -> str:
    named = os.environ.get("CXX")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        raise NoKernels(f"there is no C++ compiler ({named or 'c++, g++ or clang++'}); install one, or set CXX")
    return found


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{what} failed: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise NoKernels(f"{what} failed ({done.returncode}): {said[-1] if said else command[0]}")
    return done.stdout


def _key(compiler: str) -> str:
    parts = [SOURCE.read_bytes(), " ".join((compiler, *FLAGS)).encode()]
    parts.append(_run([compiler, "--version"], "asking the compiler for its version").encode())
    parts += [platform.machine().encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What /proc/cpuinfo says of the first processor: its model, and the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(names))


def _cache_folder() -> Path:
    """The cache folder. Files in it are executed, so nobody else may write there."""
    try:
        return cache_folder()
    except OSError as error:
        raise NoKernels(f"the cache folder, whose files are executed, cannot be used: {error}") from error


def _check_owner(path: Path) -> None:
    try:
        check_private(path)
    except OSError as error:
        raise NoKernels(f"{error}, but it would be executed; remove it or its write permissions") from error


_CHECK = """
import ctypes, sys
import numpy as np

library = ctypes.CDLL(sys.argv[1])
library.SetThreads(2)
random = np.random.default_rng(0)


def product(x, w, name):
    y = np.full((len(x), len(w)), np.nan, np.float32)
    arrays = (x, w, y)
    pointers = (ctypes.c_void_p * 3)(*(a.ctypes.data for a in arrays))
    ranks = (ctypes.c_int * 3)(2, 2, 2)
    shapes = [(ctypes.c_int64 * 2)(*a.shape) for a in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * 3)(*(ctypes.cast(s, ctypes.POINTER(ctypes.c_int64)) for s in shapes))
    types = (ctypes.c_char_p * 3)(b"float32", name, b"float32")
    code = library.Linear(3, pointers, ranks, shapes, types, None, None)
    assert code == 0, code
    return y


for rows in (1, 3, 8):
    for width, outputs in ((64, 40), (77, 13), (2053, 13)):  # short rows, and rows of more than a page
        x = random.standard_normal((rows, width), np.float32)
        w = random.standard_normal((outputs, width), np.float32)
        np.testing.assert_allclose(product(x, w, b"float32"), x @ w.T, rtol=1e-4, atol=1e-4)
        half = w.astype(np.float16)
        np.testing.assert_allclose(product(x, half, b"float16"), x @ half.astype(np.float32).T, rtol=1e-4, atol=1e-4)
        brain = (w.view(np.uint32) >> 16).astype(np.uint16)
        wide = (brain.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_allclose(product(x, brain, b"bfloat16"), x @ wide.T, rtol=1e-4, atol=1e-4)
"""


class LinearRows(nn.Cell):
    """x [..., K] times weight [N, K]^T, for 1 to 8 rows of x: float32 [..., N].

    x: float32; weight: float32, float16 or bfloat16; sums in float32.
    """

    def __init__(self):
        super().__init__()
        self.product = ops.Custom(
            f"{library()}:Linear",
            out_shape=lambda x, weight: (*x[:-1], weight[0]),
            out_dtype=lambda x, weight: x,
            func_type="aot",
        )

    def construct(self, x, weight):
        return self.product(x, weight)


class DecoderLayer(nn.Cell):
    """One decoder layer for the newest token of 1 to 8 rows, as `model.language.QwenDecoderLayer` defines it.

    Args:
        rms_norm_eps: of both norms.
        block_size: of the cache.
        scales: of the adapters of [wq, wk and wv], wo, w1, w3 and w2; ignored for a part without an adapter.

    Inputs, float32 unless another type is named; weights and biases may be float16 or bfloat16 too:
        x: [B, 1, H].
        weights: attention_norm; wq, wk, wv; their biases; wo; ffn_norm; w1, w3, w2.
        adapters: None; or for [wq, wk and wv] their A [rank, in] and three B [out, rank], then for wo, w1, w3 and w2
            A and B each; `nothing` in their place where there is no adapter.
        angles: cos and sin, [B, N or 1, 1, D], see `ops.rotary.RotaryTables`; scale of the query, [B, 1, 1, 1] or None.
        caches: keys and values of `cache.PlainCache`; the new token is written into them.
        past: block_tables int32 [B, M], slot_mapping int32 [B], valid_length int32 [B].

    Outputs:
        [B, 1, H].
    """

    def __init__(self, rms_norm_eps: float, block_size: int, scales: Sequence[float] = (1.0,) * 5):
        super().__init__()
        self.numbers = Tensor([rms_norm_eps, block_size, *scales], mstype.float32)
        self.nothing = Tensor([1.0], mstype.float32)
        self.layer = ops.Custom(
            f"{library()}:DecoderLayer",
            out_shape=lambda x, *others: x,
            out_dtype=lambda x, *others: x,
            func_type="aot",
        )

    def construct(self, x, weights, adapters, angles, caches, past):
        cos, sin, log_n = angles
        block_tables, slot_mapping, valid_length = past
        log_n = self.nothing if log_n is None else log_n
        if adapters is None:
            adapters = (self.nothing,) * 12
        where = (slot_mapping, block_tables, valid_length, self.numbers)
        return self.layer(x, *weights, cos, sin, log_n, *caches, *where, *adapters)
