"""`mindformers-qwenvl predict`, as typed, on the checkpoint of set a56."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mindformers_qwenvl.chat.questions import Question
from mindformers_qwenvl.cli import main, predict
from tests.support.golden import golden_set
from tests.support.web import site

GOLDEN = golden_set("a56")

pytestmark = pytest.mark.usefixtures("released", "own_logs")


@pytest.mark.slow
def test_two_pictures_and_a_question(checkpoint_dir, capsys):
    images = ["--image", str(GOLDEN.image(1)), "--image", str(GOLDEN.image(2))]
    options = ["--greedy", "--max-new-tokens", "8", "--draw", "out.png"]
    assert main(["predict", "--model", str(checkpoint_dir("a56")), *images, "Compare them.", *options]) == 0
    out, err = capsys.readouterr()
    assert out == GOLDEN.greedy_text("two_images", 8) + "\n"
    assert err == "out.png: not written, because the answer has no box\n" and not Path("out.png").exists()


@pytest.mark.slow
def test_a_picture_from_an_address(checkpoint_dir, capsys):
    """Refused while its server is not a public one, until that is allowed; then the answer is that of the file."""
    with site() as served:
        url = served.page("/0.png", GOLDEN.image(0).read_bytes())
        words = ["predict", "--model", str(checkpoint_dir("a56")), "--image", url, "What is it?"]
        words += ["--greedy", "--max-new-tokens", "8"]
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("mindformers-qwenvl predict: ImageRefusedError: image http://127.0.0.1:")
        assert "rule allow_private; --allow-private 127.0.0.1 allows it" in err
        assert main([*words, "--allow-private", "127.0.0.1", "--allow-host", "pictures.example"]) == 1
        assert "the host 127.0.0.1 is not allowed; allowed are: pictures.example" in capsys.readouterr().err
        assert served.seen == []
        assert main([*words, "--allow-private", "127.0.0.0/8", "--allow-host", "127.0.0.1"]) == 0
        assert capsys.readouterr().out == GOLDEN.greedy_text("one_image", 8) + "\n"
        assert [path for path, _ in served.seen] == ["/0.png"]


def records(path="out.jsonl"):
    return {record["id"]: record for record in map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())}


def test_a_file_of_questions_and_going_on(checkpoint_dir, capsys):
    folder = Path("questions")
    folder.mkdir()
    shutil.copy(GOLDEN.image(0), folder / "cat.png")
    questions = [
        {"id": "text", "text": "Hello, who are you? 你好"},
        {"id": "one_image", "images": ["cat.png"], "text": "What is it?"},
        {"id": "missing", "image": "later.png", "text": "What is it?"},
    ]
    lines = "\n".join(map(json.dumps, questions))
    (folder / "in.jsonl").write_text(f"{lines}\nno JSON\n", encoding="utf-8")
    words = ["predict", "--model", str(checkpoint_dir("a56")), "--input", "questions/in.jsonl", "--output", "out.jsonl"]
    words += ["--greedy", "--max-new-tokens", "8", "--batch-size", "3"]
    assert main(words) == 1
    err = capsys.readouterr().err
    found = records()
    assert list(found) == [4, "missing", "one_image", "text"]  # as they come
    for name in ("text", "one_image"):
        prompt_tokens = len(GOLDEN.arrays[f"ids.{name}"])
        expected = {"finish": "length", "prompt_tokens": prompt_tokens, "new_tokens": 8}
        assert found[name] == {"id": name, "answer": GOLDEN.greedy_text(name, 8), **expected}
    assert found["missing"]["error"].endswith("questions/later.png: no such file")
    assert found[4]["error"].startswith("line 4 is not JSON")
    assert "4/4" in err and "tokens/s" in err and "2 answered, 2 failed; 16 tokens" in err

    before = Path("out.jsonl").read_text(encoding="utf-8").splitlines()
    shutil.copy(GOLDEN.image(0), folder / "later.png")
    (folder / "in.jsonl").write_text(lines, encoding="utf-8")
    assert main(words) == 0
    assert "1 answered, 0 failed, 2 already there" in capsys.readouterr().err
    after = Path("out.jsonl").read_text(encoding="utf-8").splitlines()
    assert after[:2] == before[2:] and len(after) == 3  # those that had failed are gone
    assert records()["missing"] == {**found["one_image"], "id": "missing"}

    assert main([*words, "--quiet"]) == 0  # all there: not even the network is loaded
    assert capsys.readouterr().err == ""
    assert Path("out.jsonl").read_text(encoding="utf-8").splitlines() == after


def test_boxes_are_drawn_on_the_last_picture(checkpoint_dir, capsys):
    Image.new("RGB", (200, 100), "white").save("last.png")
    query = [{"image": str(GOLDEN.image(0))}, {"image": "last.png"}, {"text": "Box it."}]
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    words = ["--model", str(checkpoint_dir("a56")), "--draw", "boxes.png", "--image", "last.png", "Box it."]
    args = parser.parse_args(words)
    work = predict.Prediction(args, [Question("question", query)], None)
    predict._draw(args, work, query, "<ref>it</ref><box>(100,200),(499,799)</box>")
    drawn = Image.open("boxes.png")
    assert drawn.size == (200, 100) and drawn.getpixel((99, 60)) != (255, 255, 255)
    assert drawn.getpixel((180, 50)) == (255, 255, 255)
    assert capsys.readouterr().err == "boxes drawn: boxes.png\n"
    assert sorted(path.name for path in Path().glob("*boxes*")) == ["boxes.png"]


def test_a_drawing_that_cannot_be_saved_leaves_nothing_behind(checkpoint_dir):
    Image.new("RGB", (20000, 2), "white").save("wide.png")  # wider than WebP can be
    query = [{"image": "wide.png"}, {"text": "Box it."}]
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    words = ["--model", str(checkpoint_dir("a56")), "--draw", "boxes.webp", "--image", "wide.png", "Box it."]
    args = parser.parse_args(words)
    prediction = predict.Prediction(args, [Question("question", query)], None)
    before = sorted(Path().iterdir())
    with pytest.raises(ValueError, match="WebP"):
        predict._draw(args, prediction, query, "<box>(100,200),(499,799)</box>")
    assert sorted(Path().iterdir()) == before


@pytest.mark.slow  # the network is taught first; `demo` learns boxes, too
def test_boxes_that_a_network_has_learnt(taught, capsys):
    """From weights to PNG: the boxes are in what the network writes, by itself."""
    capsys.readouterr()
    words = ["predict", "--model", str(taught.directory), "--image", str(taught.picture), "--draw", "boxes.png"]
    assert main([*words, "--greedy", taught.question]) == 0
    out, err = capsys.readouterr()
    assert out == taught.answer + "\n"
    assert err == "boxes drawn: boxes.png\n"
    drawn, plain = Image.open("boxes.png").convert("RGB"), Image.open(taught.picture).convert("RGB")
    assert drawn.size == plain.size == (640, 400)
    # Thousandths (100,200),(400,680) are x from 64 to 256, y from 80 to 272; the other box is (352,120),(576,344).
    for edge in ((64, 200), (256, 200), (200, 272), (352, 300), (576, 300), (500, 344)):
        assert drawn.getpixel(edge) != plain.getpixel(edge), edge
    for elsewhere in ((200, 200), (300, 200), (30, 200), (500, 250), (600, 300), (460, 380)):
        assert drawn.getpixel(elsewhere) == plain.getpixel(elsewhere), elsewhere


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a QUESTION"),
        (["--image", "a.png"], "give a QUESTION"),
        ([" "], "the QUESTION is empty"),
        (["q", "--input", "i", "--output", "o"], "leave out QUESTION, --image and --draw"),
        (["--input", "i"], "must be given together"),
        (["--input", "i", "--output", "i"], "is the same file as --input"),
        (["--input", "i", "--output", "o", "--batch-size", "0"], "at least 1"),
        (["q", "--batch-size", "2"], "need --input"),
        (["q", "--draw", "boxes.psd"], "the name must end in the suffix of an image format"),  # Pillow only reads these
        (["q", "--draw", "boxes"], "the name must end in the suffix of an image format"),
        (["q", "--greedy", "--sample"], "not allowed with"),
        (["q", "--top-p", "7"], "top_p must be a number from 0 to 1"),
        (["q", "--dtype", "int8"], "invalid choice"),
        (["q", "--allow-private", "all"], "allow_private takes networks like 10.1.0.0/16"),
        (["q", "--allow-host", "http://a.example/"], "allow_hosts takes names like images.example.com"),
    ],
)
def test_bad_usage(words, message, checkpoint_dir, usage_error):
    assert message in usage_error("predict", "--model", str(checkpoint_dir("a56")), *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere", "q"], "--model nowhere: no such directory"),
        (["--model", "M", "--image", "nowhere.png", "q"], "nowhere.png: no such file"),
        (["--model", "M", "--input", "nowhere.jsonl", "--output", "o"], "nowhere.jsonl"),
        (["--model", "M", "<img>x"], "unclosed image tag"),
        (["--model", "nowhere", "--draw", "no/folder.png", "q"], "there is no folder"),
        (["--model", "nowhere", "--draw", "a.png", "--image", "a.png", "q"], "would overwrite a.png"),
    ],
)
def test_failures_exit_with_1_and_one_message(words, message, checkpoint_dir, capsys):
    assert main(["predict", *(str(checkpoint_dir("a56")) if word == "M" else word for word in words)]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("mindformers-qwenvl predict: ") and message in err and err.count("\n") == 1
    assert out == "" and not Path("o").exists()


def test_help_has_examples(help_text):
    assert "mindformers-qwenvl predict --model Qwen-VL-Chat --image a.png" in help_text("predict")
