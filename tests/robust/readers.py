"""Every reader, with sound inputs to mutate: what `mutated.py` feeds."""

from __future__ import annotations

import io
import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save

from tests.support.golden import golden_set
from tests.support.torch_files import TorchTensor, write_torch

A56 = golden_set("a56")
MOST = 50  # records or tensors that are read of a file


@dataclass(frozen=True)
class Reader:
    """A reader of files: `seeds` are sound contents, `read` takes the path of a mutated one of the name `name`."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], Any]
    beside: dict[str, bytes] = field(default_factory=dict)  # name -> sound content


def readers(folder: Path) -> list[Reader]:
    """All of them; `folder` is for what has to be written to be had as bytes."""
    return [*_texts(), *_data(), *_settings(), *_pictures(), *_weights(folder)]


def _conversations() -> list[dict[str, Any]]:
    turns = [
        {"from": "user", "value": "Picture 1: <img>a.png</img>\nWhere is <ref>the cat</ref>? 你好"},
        {"from": "assistant", "value": "<ref>the cat</ref><box>(1,2),(30,40)</box>"},
    ]
    return [{"id": f"id_{number}", "conversations": turns} for number in range(3)]


def _texts() -> list[Reader]:
    from mindformers_qwenvl.generation.prompt import make_prompt
    from mindformers_qwenvl.grounding import parse, to_text
    from mindformers_qwenvl.text.layout import training_sample
    from mindformers_qwenvl.text.list_format import from_list_format, to_list_format
    from mindformers_qwenvl.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_file(A56.vocab_file, image_slots=16)
    seeds = (
        b"<ref>the cat</ref><box>(1,2),(30,40)</box> and <quad>(1,2),(3,4),(5,6),(7,8)</quad>",
        "Picture 1: <img>a.png</img>\nWhat is it? 你好 é̂".encode(),
        b"<|im_start|>user\n<box>(1,2)(3,4)</box><|im_end|><imgpad>",
    )

    def text(path: Path) -> str:
        return path.read_bytes().decode("utf-8", "replace")

    def tokens(path: Path) -> None:
        vocabulary.decode(vocabulary.encode_text(text(path)), errors="replace")

    def listed(path: Path) -> None:
        from_list_format(to_list_format(text(path)))

    def prompt(path: Path) -> None:
        said = text(path)
        make_prompt(vocabulary, said, [(said[::2], said[1::2])])

    def sample(path: Path) -> None:
        said = text(path)
        training_sample([("user", said), ("assistant", said[::-1])], vocabulary, max_length=64)

    return [
        Reader("boxes in a text", seeds, lambda path: to_text(parse(text(path)).objects)),
        Reader("text to tokens and back", seeds, tokens),
        Reader("list format", seeds, listed),
        Reader("prompt with history", seeds, prompt),
        Reader("training sample", seeds, sample),
    ]


def _data() -> list[Reader]:
    from mindformers_qwenvl.chat.journal import Journal
    from mindformers_qwenvl.chat.questions import read_questions
    from mindformers_qwenvl.datasets.annotations import AnnotationError, AnnotationFile
    from mindformers_qwenvl.datasets.convert.converter import convert_file
    from mindformers_qwenvl.evaluate.data.grounding import load_refs
    from mindformers_qwenvl.evaluate.data.source import load
    from mindformers_qwenvl.training.steps_file import read_steps

    records = _conversations()
    llava = [{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}]
    llava[0]["conversations"].append({"from": "gpt", "value": "A cat."})
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 28, "height": 28}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 11]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    lines = "\n".join(map(json.dumps, records)).encode()
    asked = [{"id": "a", "images": ["1.png"], "text": "Compare."}, {"id": 2, "query": [{"text": "x"}], "history": []}]
    refs = [{"ref_id": 1, "split": "val", "image_id": 1, "ann_id": 1, "sentences": [{"sent_id": 1, "sent": "a cat"}]}]

    def annotations(path: Path) -> None:
        file = AnnotationFile(path)
        for index in range(min(len(file), MOST)):
            try:
                file.sample(index)
            except AnnotationError:
                continue

    def convert(path: Path) -> None:
        convert_file(path, path.parent, path.with_name("out.json"))

    def answers(path: Path) -> None:
        copy = path.with_name("answers.jsonl")
        copy.write_bytes(path.read_bytes())
        with Journal(copy) as journal:
            journal.write({"id": "new", "answer": "yes"})

    return [
        Reader("annotations", (json.dumps(records).encode(), lines), annotations),
        Reader(
            "convert-data", (json.dumps(llava).encode(), json.dumps(coco).encode(), lines), convert, {"a.png": _png()}
        ),
        Reader("questions", ("\n".join(map(json.dumps, asked)).encode(),), read_questions),
        Reader("journal", (b'{"id": "a", "answer": "b"}\n{"id": "c", "error": "d"}\n',), answers),
        Reader("benchmark.json", (json.dumps(coco).encode(), lines), load),
        Reader("table.tsv", (b"index\tquestion\tA\n1\twhat?\tcat\n",), load),
        Reader("refs.p", (pickle.dumps(refs, 2), pickle.dumps(refs, 4)), load_refs),
        Reader("steps.csv", (b"step,epoch,loss,lr\n1,1,2.5,0.1\n2,1,2.25,0.1\n",), read_steps),
    ]


def _settings() -> list[Reader]:
    from mindformers_qwenvl import recipes
    from mindformers_qwenvl.adapters.settings import read_settings
    from mindformers_qwenvl.config.original import our_settings, read_original
    from mindformers_qwenvl.datasets.check.job import read_settings as check_settings
    from mindformers_qwenvl.estimate import estimate, read_job
    from mindformers_qwenvl.text.vocabulary import Vocabulary

    tiny = (recipes.yaml_dir() / "finetune_qwenvl_tiny.yaml").read_bytes()
    small = yaml.safe_dump({"model": {"model_config": {"type": "QwenVLConfig"}}, "list": [1, 2.5, None, "x"]}).encode()
    lora = json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["c_attn"]}).encode()
    vocabulary = A56.vocab_file.read_bytes()

    def original(path: Path) -> None:
        our_settings(read_original(path))

    def memory(path: Path) -> None:
        estimate(read_job(path))

    return [
        Reader("YAML", (small, tiny[:3000]), recipes.read),
        Reader("YAML in estimate", (tiny,), memory),
        Reader("YAML in check-data", (tiny,), check_settings),
        Reader("config.json", ((A56.directory / "config.json").read_bytes(),), original),
        Reader("adapter_config.json", (lora,), read_settings),
        Reader("qwen.tiktoken", (vocabulary[:4000], vocabulary), Vocabulary.from_file),
    ]


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), "white").save(file, "PNG")
    return file.getvalue()


def _pictures() -> list[Reader]:
    from mindformers_qwenvl.pictures.images import ImageTransform, open_image
    from mindformers_qwenvl.pictures.sources import decode_data_uri

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    seeds = []
    for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        picture.save(file, form)
        seeds.append(file.getvalue())
    transform = ImageTransform(28)

    def uri(path: Path) -> None:
        decode_data_uri("data:image/png;base64," + path.read_bytes().decode("latin-1"))

    return [
        Reader("picture.png", tuple(seeds), transform.pixels),
        Reader("picture with EXIF", (seeds[1],), lambda path: open_image(path, exif_rotation=True)),
        Reader("data: address", (b"iVBORw0KGgo=", b"AAAA"), uri),
    ]


def _weights(folder: Path) -> list[Reader]:
    from mindformers_qwenvl.weights.convert.writer import Entry, ckpt_layout
    from mindformers_qwenvl.weights.formats.reader import Checkpoint
    from mindformers_qwenvl.weights.formats.strategy import read_strategies

    numbers = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float16)}
    tensors = {name: TorchTensor("F32", each.shape, each.astype(np.float32)) for name, each in numbers.items()}
    write_torch(folder / "seed.bin", tensors)
    plan = ckpt_layout([Entry(name, "F32", each.shape) for name, each in numbers.items()])
    ckpt = bytearray(plan.size)
    for position, header in plan.headers:
        ckpt[position : position + len(header)] = header
    ckpt = bytes(ckpt)
    shard = "model-00001-of-00001.safetensors"
    index = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(numbers, shard)}).encode()

    def read(path: Path) -> None:
        with Checkpoint(path) as checkpoint:
            for name, info in itertools.islice(checkpoint.tensors.items(), MOST):
                if info.size < 1 << 20:
                    checkpoint.read(name)

    return [
        Reader("weights.safetensors", (save(numbers),), read),
        Reader("weights.bin", ((folder / "seed.bin").read_bytes(),), read),
        Reader("weights.ckpt", (ckpt,), read),
        Reader("model.safetensors.index.json", (index,), lambda path: read(path.parent), {shard: save(numbers)}),
        Reader("strategy.ckpt", (b"\n\x05\n\x01a\x12\x00", ckpt[:40]), lambda path: read_strategies([path])),
    ]
