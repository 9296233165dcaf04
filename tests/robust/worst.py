"""The worst inputs that are known, each in a process of its own: its time, and its memory beyond what it had before."""

from __future__ import annotations

import json
import os
import pickle
import resource
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.robust.readers import A56

MOST_SECONDS, MOST_MEMORY = 10.0, 2 << 30


def run(only: str = "") -> int:
    """Print the table; how many are beyond the bounds."""
    print("| input | result | time, s | memory, MB |")
    print("|---|---|---|---|", flush=True)
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        for name, action in _inputs(Path(place)):
            if only in name:
                result, seconds, memory = _measured(action)
                bad += seconds > MOST_SECONDS or memory > MOST_MEMORY or result.startswith("fault")
                print(f"| {name} | {result} | {seconds:.2f} | {memory >> 20:,} |", flush=True)
    print()
    return bad


def _measured(action: Callable[[], Any]) -> tuple[str, float, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        try:
            action()
            result = "read"
        except (OSError, ValueError) as error:
            result = f"refused: {type(error).__name__}"
        except BaseException as error:
            result = f"fault: {type(error).__name__}"
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, json.dumps([result, time.process_time() - began, used << 10]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return tuple(json.loads(told)) if told else ("fault: it died", 0.0, 0)


def _inputs(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield from _texts()
    yield from _files(folder)
    yield from _weights(folder)


def _texts() -> Iterator[tuple[str, Callable[[], Any]]]:
    from mindformers_qwenvl.generation.prompt import make_prompt
    from mindformers_qwenvl.grounding import parse
    from mindformers_qwenvl.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_file()
    turns = [("question " * 20, "answer " * 20)] * 1000
    for name, text in {
        "a million letters": "a" * 1_000_000,
        "a million spaces": " " * 1_000_000,
        "200,000 spaces, five times": (" " * 200_000 + "a") * 5,
        "a million marks": "!?" * 500_000,
        "400,000 combining characters": "e" + "\u0301" * 400_000,
        "2,000 combining characters, 200 times": ("e" + "\u0316\u0301" * 1000) * 200,
        "`<img>` 200,000 times": "<img>" * 200_000,
        "`<img></img>` 2,000 times": "<img></img>" * 2_000,
    }.items():
        yield f"text: {name}", lambda text=text: vocabulary.encode_text(text)
    yield "boxes: `<box>(` 200,000 times", lambda: parse("<box>(" * 200_000)
    yield "boxes: a box 50,000 times", lambda: parse("<ref>a</ref><box>(1,2),(3,4)</box>" * 50_000)
    yield "history of 1,000 turns", lambda: make_prompt(vocabulary, "q", turns, longest=2000)


def _files(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    from mindformers_qwenvl import files, recipes
    from mindformers_qwenvl.datasets.annotations import AnnotationFile
    from mindformers_qwenvl.datasets.json_stream import JsonStream
    from mindformers_qwenvl.evaluate.data.grounding import load_refs
    from mindformers_qwenvl.pictures.images import ImageTransform

    def written(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def lines(path: Path) -> None:
        with JsonStream(path) as stream:
            list(stream.lines() if path.suffix == ".jsonl" else stream.items())

    deep = b"[" * 200_000
    yield "JSON: nested 200,000 deep", lambda: files.read_json(written("deep.json", deep))
    dicts = b'{"a":{}},' * ((16 << 20) // 9 - 1)
    yield "JSON: 16 MB of dicts", lambda: files.read_json(written("dicts.json", b"[" + dicts + b"1]"))
    more = b'{"a":{}},' * ((32 << 20) // 9 - 1)
    yield "JSON Lines: a record of 32 MB of dicts", lambda: lines(written("dicts.jsonl", b"[" + more + b"1]\n"))
    yield "JSON Lines: a line of 200 MB", lambda: lines(written("long.jsonl", b"x" * (200 << 20)))
    yield "JSON list: a value that never ends, 200 MB", lambda: lines(written("open.json", b"[[" + b"1," * (100 << 20)))
    yield (
        "annotations: 5 million records",
        lambda: AnnotationFile(written("many.json", b"[" + b"{}," * 5_000_000 + b"{}]")),
    )
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
    )
    yield "YAML: aliases that double 24 times", lambda: recipes.read(written("bomb.yaml", bomb.encode()))
    flow = b"a: " + b"{a: " * 20_000
    yield "YAML: nested 20,000 deep", lambda: recipes.read(written("deep.yaml", flow))
    wide = b"a: [" + b"1, " * 40_000 + b"1]"
    yield "YAML: 120 KB of numbers", lambda: recipes.read(written("wide.yaml", wide))
    twice: Any = []
    for _ in range(40):
        twice = [twice, twice]
    yield "REFER's pickle: a list that doubles 40 times", lambda: load_refs(written("refs.p", pickle.dumps(twice, 2)))
    yield "picture: PNG of 9,400 x 9,400 in one colour", lambda: ImageTransform(448).pixels(_png(folder, 9_400, 9_400))
    yield "picture: PNG of 100,000 x 890", lambda: ImageTransform(448).pixels(_png(folder, 100_000, 890))
    yield "picture: PNG of 65,000 x 65,000", lambda: ImageTransform(448).pixels(_png(folder, 65_000, 65_000))


def _png(folder: Path, width: int, height: int) -> Path:
    """Of one colour, whose numbers are a few kilobytes; written row by row, so that this process stays small."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, packed = zlib.compressobj(9), b""
    row = bytes(1 + width * 3)
    for _ in range(height if width * height < 100_000_000 else 10):  # one that is refused needs no numbers
        packed += packer.compress(row)
    packed += packer.flush()
    path = folder / "large.png"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


def _weights(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    from mindformers_qwenvl.text.vocabulary import Vocabulary
    from mindformers_qwenvl.weights.formats.reader import Checkpoint

    def opened(name: str, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        Checkpoint(path).close()

    def torch(content: bytes) -> None:
        with zipfile.ZipFile(folder / "a.bin", "w") as archive:
            archive.writestr("a/data.pkl", content)
        Checkpoint(folder / "a.bin").close()

    keys = b"".join(
        b"\x8a\x0a" + ((number + 1) * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for number in range(12_000)
    )
    yield ".bin: 170 KB of keys that collide", lambda: torch(b"\x80\x02}(" + keys + b"u.")
    copies = b"\x80\x02ccollections\nOrderedDict\nq\x00)R" + b"h\x00\x85" * 1
    yield ".bin: copies of OrderedDict", lambda: torch(copies + b"R" * 10_000 + b".")
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    names = ",".join(f'"{number}":{entry}' for number in range(240_000))
    header = ("{" + names + "}").encode()
    yield (
        ".safetensors: a header of 16 MB",
        lambda: opened("a.safetensors", len(header).to_bytes(8, "little") + header + bytes(4)),
    )
    sides = ('{"a":{"dtype":"F32","shape":[' + "1," * 8_000_000 + '1],"data_offsets":[0,4]}}').encode()
    yield (
        ".safetensors: 8 million sides",
        lambda: opened("b.safetensors", len(sides).to_bytes(8, "little") + sides + bytes(4)),
    )
    dims = b"\x08\x01" * 200_000
    tensor = b"\n\x01a\x12" + _length(len(dims) + 3) + dims + b"\x1a\x01f"
    yield ".ckpt: 200,000 sides", lambda: opened("a.ckpt", b"\n" + _length(len(tensor)) + tensor)
    lines = A56.vocab_file.read_bytes()
    yield (
        "qwen.tiktoken: 16 MB",
        lambda: Vocabulary.from_file(_file(folder / "qwen.tiktoken", lines + b"\n" * (15 << 20))),
    )


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _length(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])
