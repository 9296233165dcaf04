"""A model's folder is not trusted: it may tighten, never loosen, and names no file outside of itself."""

from __future__ import annotations

import json
import shutil
import sys
import warnings

import pytest

from mindformers_qwenvl.config.folder import FolderWarning
from mindformers_qwenvl.pictures.policy import ImagePolicy
from tests.support.golden import golden_set
from tests.support.web import site

HOSTILE = {
    "allow_private": True,
    "allow_outside": True,
    "allow_folders": ["/"],
    "allow_hosts": ["a.example"],
    "formats": ["EPS", "PNG"],
    "max_bytes": 10**12,
    "max_pixels": 100,
}


@pytest.fixture(params=["preprocessor_config.json", "model.yaml"])
def folder(request, tmp_path):
    """`folder(section)`: a model's folder whose section `processor` is that, in JSON or in YAML."""

    def make(section, top=None):
        made = tmp_path / "downloaded"
        shutil.copytree(golden_set("a56").directory, made)
        content = {**(top or {}), "processor": {"type": "QwenVLProcessor", **section}}
        (made / request.param).write_text(json.dumps(content))  # JSON is YAML
        return made

    return make


@pytest.mark.parametrize("place", ["processor", "image_processor", "model_transform_template"])
def test_a_policy_may_tighten_and_not_loosen(folder, place):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    section = {"image_policy": HOSTILE} if place == "processor" else {place: {"image_policy": HOSTILE}}
    with pytest.warns(FolderWarning) as said:
        made = QwenVLProcessor.from_pretrained(folder(section))
    want = ImagePolicy(allow_hosts=("a.example",), formats=("PNG",), max_pixels=100)
    assert made.template.image_transform.policy == made.image_processor.image_transform.policy == want
    names = "allow_private, allow_outside, allow_folders, formats, max_bytes"
    assert any(f"image_policy: {names} is left out" in str(one.message) for one in said)


def test_no_private_address_is_fetched_because_a_folder_says_so(folder):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    with site() as served:
        url = served.page("/0.png", golden_set("a56").image(0).read_bytes())
        with pytest.warns(FolderWarning):
            made = QwenVLProcessor.from_pretrained(folder({"image_policy": {"allow_private": True}}))
        with pytest.raises(ValueError, match="rule allow_private"):
            made([{"image": url}])
        assert served.seen == []


def test_an_image_processor_of_a_folder(tmp_path):
    from mindformers_qwenvl.data.image_processor import QwenVLImageProcessor

    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_size": 56, "image_policy": HOSTILE}))
    with pytest.warns(FolderWarning, match="allow_private"):
        made = QwenVLImageProcessor.from_pretrained(str(tmp_path))
    assert made.image_transform.size == 56 and made.image_transform.policy.formats == ("PNG",)
    assert made.image_transform.policy.allow_private is False


def test_a_dataset_dir_is_left_out(folder):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    with pytest.warns(FolderWarning, match="dataset_dir is left out"):
        made = QwenVLProcessor.from_pretrained(folder({"dataset_dir": "/etc", "max_length": 77}))
    assert made.template.dataset_dir == "" and made.max_length == 77


@pytest.mark.parametrize("part", ["", "image_processor", "model_transform_template", "tokenizer"])
def test_code_of_a_folder_is_not_imported(folder, part, monkeypatch):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    hook = {"auto_register": "downloaded_code.Evil"}
    made = folder({part: hook} if part else hook)
    (made / "downloaded_code.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(made)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        QwenVLProcessor.from_pretrained(made)
    assert "downloaded_code" not in sys.modules
    if part != "tokenizer" or (made / "model.yaml").exists():  # in JSON, a tokenizer has a file of its own
        assert any("auto_register is left out" in str(one.message) for one in said)


def test_another_class_is_refused(folder):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    with pytest.raises(ValueError, match=r"image_processor\.type must be QwenVLImageProcessor, got 'Other\\x1b'"):
        QwenVLProcessor.from_pretrained(folder({"image_processor": {"type": "Other\x1b"}}))


@pytest.mark.parametrize("named", ["/etc/passwd", "../other.tiktoken", "/nowhere/qwen.tiktoken", "missing.tiktoken"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "model.yaml"])
def test_a_vocabulary_elsewhere_is_not_read(tmp_path, named, file):
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    shutil.copytree(golden_set("a56").directory, tmp_path / "downloaded")
    (tmp_path / "other.tiktoken").write_text("of somebody else")
    content = {"vocab_file": named}
    if file == "model.yaml":
        content = {"processor": {"tokenizer": {"type": "QwenVLTokenizer", **content}}}
    (tmp_path / "downloaded" / file).write_text(json.dumps(content))
    with pytest.warns(FolderWarning, match="vocab_file .* is left out"):
        made = QwenVLTokenizer.from_pretrained(tmp_path / "downloaded")
    assert made.vocab_file == str(tmp_path / "downloaded" / "qwen.tiktoken")
    mine = golden_set("b224").directory / "qwen.tiktoken"
    assert QwenVLTokenizer.from_pretrained(tmp_path / "downloaded", vocab_file=mine).vocab_file == str(mine)


def test_a_vocabulary_of_another_name_in_the_folder(tmp_path, recwarn):
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    shutil.copy(golden_set("a56").vocab_file, tmp_path / "mine.tiktoken")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "mine.tiktoken", "errors": "ignore"}))
    made = QwenVLTokenizer.from_pretrained(tmp_path)
    assert made.vocab_file == str(tmp_path / "mine.tiktoken") and made.errors == "ignore"
    assert not [one for one in recwarn if one.category is FolderWarning]


@pytest.mark.parametrize("key", ["checkpoint_name_or_path", "adapter"])
@pytest.mark.parametrize("door", ["from_pretrained", "from_dict"])
def test_a_config_json_names_no_other_files(tmp_path, key, door):
    from mindformers_qwenvl.config import QwenVLConfig

    content = QwenVLConfig.from_pretrained(golden_set("a56").directory).to_dict()
    content[key] = content["llm_model"]["model_config"][key] = "/somewhere/else"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.warns(FolderWarning, match=f"{key} '/somewhere/else' is left out"):
        made = getattr(QwenVLConfig, door)(content if door == "from_dict" else tmp_path)
    for part in (made, made.llm):
        assert not getattr(part, key, None)
