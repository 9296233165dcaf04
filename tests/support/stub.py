"""A toolkit of no-op CUDA, NCCL and MPI, with which MindSpore's GPU plugin loads on any machine and compiles.

MindSpore refuses semi-automatic parallel graphs on its CPU backend. Its wheel carries a GPU plugin, which needs CUDA's
libraries to load; given empty ones, it compiles a graph for as many devices as it is told there are, one worker at a
time. That checks every operator's strategy and every parameter's layout. No kernel is chosen and nothing is computed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).with_name("stub.c")
LIBRARY = re.compile(r"lib(cuda|cudart|cudnn|cublas|cufft|curand|cusolver|cusparse|nvrtc|nccl|mpi)\.so[.\d]*")
SYMBOL = re.compile(r"cu[A-Z]\w+|cu(da|dnn|blas|fft|rand|solver|sparse)[A-Z]\w+|(nccl|MPI_|ompi_)\w+")


def missing() -> str | None:
    """Why this machine cannot build the toolkit; None if it can."""
    absent = [program for program in ("gcc", "nm", "readelf") if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not installed: no stub device to compile sharded graphs for"
    if not _plugins():
        return "this MindSpore has no GPU plugin (libmindspore_gpu.so.*): no stub device to compile sharded graphs for"
    return None


def build(folder: Path) -> dict[str, str]:
    """Compile the toolkit into `folder`; the environment variables with which MindSpore finds it."""
    plugin, cuda = max(_plugins(), key=lambda found: [int(part) for part in found[1].split(".")])
    users = [
        plugin / f"libmindspore_gpu.so.{cuda}",
        plugin / f"gpu{cuda}" / "libnvidia_collective.so",
        *(plugin / "gpu").glob("libcuda_ops.so*"),
        plugin.parent / "libmpi_collective.so",
    ]
    libraries, binaries = folder / "lib64", folder / "bin"
    for made in (libraries, binaries):
        made.mkdir(parents=True)

    library = libraries / "libstub.so"
    _compile(folder, library, *_needed_symbols(users))
    names = {name for user in users for name in re.findall(r"\(NEEDED\).*\[(.*)\]", _run("readelf", "-d", user))}
    # One library under all the names; MindSpore reads CUDA's version off the last one, or asks nvcc.
    for name in (*filter(LIBRARY.fullmatch, names), f"libcudart.so.{cuda}.0"):
        (libraries / name).symlink_to(library.name)
    nvcc = binaries / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {cuda}, V{cuda}.0'\n")
    nvcc.chmod(0o755)
    return {
        "CUDA_HOME": str(folder),
        "LD_LIBRARY_PATH": f"{libraries}:{plugin / f'gpu{cuda}'}:{plugin / 'gpu'}",
        "LD_PRELOAD": str(library),  # the plugin's own NCCL stands beside it and would be found first
        "MS_DEV_PRECOMPILE_ONLY": "1",  # stop behind the front end, where sharding is decided
        "OMPI_COMMAND": "stub",  # started by MPI, so there is no scheduler to register with
    }


def place(rank: int, workers: int) -> dict[str, str]:
    """Environment variables of one worker."""
    return {
        "STUB_RANK": str(rank),
        "STUB_WORKERS": str(workers),
        "PMIX_RANK": str(rank),
        "OMPI_COMM_WORLD_RANK": str(rank),
    }


def _plugins() -> list[tuple[Path, str]]:
    """Folders and CUDA versions of the GPU plugins of the installed MindSpore."""
    found = importlib.util.find_spec("mindspore")
    folder = Path(found.origin).parent / "lib" / "plugin" if found else Path("/nonexistent")
    return [(folder, file.name.partition(".so.")[2]) for file in folder.glob("libmindspore_gpu.so.*")]


def _needed_symbols(users: list[Path]) -> tuple[set[str], dict[str, set[str]]]:
    """Symbols that the plugin takes from the toolkit; and those of each symbol version."""
    symbols, versions = set(), defaultdict(set)
    for user in users:
        for line in _run("nm", "-D", "--undefined-only", "--with-symbol-versions", user).splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            if LIBRARY.fullmatch(version):
                versions[version].add(symbol)
                symbols.add(symbol)
            elif SYMBOL.fullmatch(symbol):
                symbols.add(symbol)
    return symbols, versions


def _compile(folder: Path, library: Path, symbols: set[str], versions: dict[str, set[str]]) -> None:
    written = set(re.findall(r"\b(\w+)(?:\(.*\) \{|\[1024\])", SOURCE.read_text(encoding="utf-8")))
    rest = sorted(symbols - written)
    (folder / "rest.c").write_text("#include <stdlib.h>\n" + "\n".join(map(_nothing, rest)) + "\n")
    nodes = (f"{version} {{ {' '.join(f'{name};' for name in sorted(own))} }};" for version, own in versions.items())
    (folder / "versions.map").write_text("\n".join(nodes) + "\n")
    flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,--version-script={folder / 'versions.map'}"]
    _run("gcc", *flags, "-o", library, SOURCE, folder / "rest.c")


def _nothing(symbol: str) -> str:
    if symbol.startswith("ompi_"):
        return f"char {symbol}[1024];"
    if "Create" in symbol and not symbol.startswith("cufft"):
        return f"int {symbol}(void **made) {{ *made = malloc(64); return 0; }}"
    return f"long {symbol}(void) {{ return 0; }}"


def _run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
