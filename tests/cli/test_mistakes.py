"""What people type wrong: it is named, with what was meant, before MindSpore is imported."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.cli._inputs import check_model_folder, check_pictures, in_options
from mindformers_qwenvl.grounding import latest_picture
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from tests.support.golden import GOLDEN, golden_set

A56 = golden_set("a56")
LORA = GOLDEN / "lora" / "a56" / "adapter"


@pytest.fixture
def model() -> Path:
    """A folder that could be a model, as far as that shows without reading weights."""
    folder = Path("model")
    folder.mkdir()
    for name in ("config.json", "qwen.tiktoken"):
        shutil.copy(A56.directory / name, folder)
    (folder / "model.safetensors").touch()
    return folder


def said(words, capsys, code=1) -> str:
    """What a command that fails writes to standard error."""
    if code == 2:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    else:
        assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_names_that_are_nearly_right(capsys):
    assert "there is no command 'predikt'; did you mean predict?" in said(["predikt", "--model", "m"], capsys, 2)
    for words, code in (
        (["yaml", "finetune_qwenvl_9.6"], 1),
        (["estimate", "--yaml", "finetune_qwenvl_9.6"], 2),
        (["check-data", "a.json", "--yaml", "finetune_qwenvl_9.6"], 1),
    ):
        if words[0] == "estimate":
            assert main(words) == code
            err = capsys.readouterr().err
        else:
            err = said(words, capsys, code)
        assert "did you mean finetune_qwenvl_9.6b" in err, words
    assert main(["estimate", "--yaml", "finetune_qwenvl_tiny", "--set", "runner_config.epoch=2"]) == 2
    assert "did you mean runner_config.epochs?" in capsys.readouterr().err


def test_a_folder_that_is_no_model(model, capsys):
    check_model_folder(model)
    for change, what in (
        (lambda: (model / "model.safetensors").unlink(), "there are no weights in this folder"),
        (
            lambda: (model / "config.json").write_text(json.dumps({"model_type": "llama"})),
            r"not that of a Qwen-VL.*llama",
        ),
        (lambda: (model / "config.json").write_text('{"visual":\n  x}'), "line 2 column 3"),
        (lambda: (model / "config.json").unlink(), r"there is no config\.json"),
        (lambda: shutil.copy(LORA / "adapter_config.json", model), r"is a LoRA adapter.*--adapter model"),
        (lambda: shutil.rmtree(model), "no such directory"),
    ):
        change()
        with pytest.raises((ValueError, FileNotFoundError), match=what):
            check_model_folder(model)


def test_wrong_paths_answer_at_once(model):
    """A second of computing on a machine of the usual speed, whatever else it does; MindSpore's import takes more."""
    code = (
        "import sys, time; from mindformers_qwenvl.cli import main; ended = main(sys.argv[1:]);"
        "assert 'mindspore' not in sys.modules and 'mindformers' not in sys.modules;"
        "print(ended, time.process_time())"
    )
    for words in (["--model", "nowhere", "hi"], ["--model", str(model), "--image", "no.png", "hi"]):
        environment = {"PYTHONPATH": str(GOLDEN.parents[1]), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code, "predict", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
            timeout=300,
        )
        ended, seconds = done.stdout.split()
        assert ended == "1" and float(seconds) < 3, done
    assert "image no.png: no such file" in done.stderr


def test_pictures_that_are_something_else():
    pointer = Path("lfs.png")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    content = base64.b64encode(A56.image(0).read_bytes()).decode()
    for source, what in (
        (str(pointer), r"a git-lfs pointer, not the picture: run `git lfs pull`"),
        (content, r"content of a picture in base64, not a path: put `data:image/png;base64,` before it"),
        ("data:image/png;base64,%%%", "damaged base64"),
    ):
        with pytest.raises(ImageError, match=what):
            check_pictures([source])
    check_pictures([f"data:image/png;base64,{content}", str(A56.image(0)), "https://example.com/a.png"])
    with pytest.raises(FileNotFoundError):
        check_pictures(["a" * 200 + ".png"])


def test_refusals_name_the_switch_of_the_command():
    policy = ImagePolicy(allow_hosts=("a.com",))
    for call, option in (
        (
            lambda: ImagePolicy().check_address("10.1.2.3", "h", "x"),
            "rule allow_private; --allow-private 10.1.2.3 allows it",
        ),
        (lambda: policy.check_host("b.com", "x"), "rule allow_hosts; --allow-host b.com allows it"),
        (lambda: policy.check_path(Path("/etc/a.png"), "/data", "x"), "rule allow_outside; --allow-outside allows it"),
    ):
        with pytest.raises(ImageRefusedError) as refused:
            call()
        assert option in in_options(str(refused.value))


def test_draw_finds_the_picture_in_a_tag():
    """`predict --draw` with a picture in the question's text."""
    query = [{"text": "Picture 1: <img>a.png</img>\nBox <img>b.png</img> it."}]
    assert latest_picture("<box>(1,2),(3,4)</box>", [(query, "")]) == "b.png"
    assert latest_picture("<img>c.png</img>", [([{"text": "none"}], "")]) is None


def test_adapters_that_are_given_for_a_model(capsys):
    from mindformers_qwenvl import QwenVL
    from mindformers_qwenvl.weights.hooks import refuse_incomplete

    capsys.readouterr()  # MindFormers prints when it is imported, which another test may have done
    with pytest.raises(
        ValueError, match=r"is a LoRA adapter, not a model: call QwenVL\.from_pretrained\(BASE, adapter="
    ):
        QwenVL.from_pretrained(str(LORA))
    with pytest.raises(ValueError, match=r"load_checkpoint: .* is a LoRA adapter.*pet_config"):
        refuse_incomplete(str(LORA))
    assert "is a LoRA adapter" in said(["convert-weight", "--input_path", str(LORA), "--output_path", "out"], capsys)


def test_json_faults_have_line_and_column(capsys):
    """Of files that are read whole, of datasets in both forms, of questions and of answers to be scored."""
    from mindformers_qwenvl.chat.questions import read_questions
    from mindformers_qwenvl.datasets.annotations import AnnotationFile
    from mindformers_qwenvl.evaluate.data.source import load
    from mindformers_qwenvl.files import read_json

    bad = Path("bad.json")
    bad.write_text('[{"id": 1},\n {"id": 2,}]')
    for call in (lambda: read_json(bad), lambda: AnnotationFile(bad).record(1)):
        with pytest.raises(ValueError, match=r"line 2.*column \d+"):
            call()
    lines = Path("bad.jsonl")
    lines.write_text('{"id": 1}\n{"id": 2,}\n')
    for call in (lambda: AnnotationFile(lines).record(1), lambda: load(lines)):
        with pytest.raises(ValueError, match=r"line 2.*column \d+"):
            call()
    assert read_questions(lines)[1].error.startswith("line 2 is not JSON: ")
    assert "at column" in read_questions(lines)[1].error
