"""The options of run_mindformer.py, and what they set in a YAML."""

from __future__ import annotations

import argparse

import pytest

from mindformers_qwenvl.launch.options import OPTIONS, add_options, input_data, settings

# Of run_mindformer.py in MindFormers 1.7 to 2.1; --config and --options are the command's own.
STOCK = """
mode device_id device_target run_mode do_eval train_dataset_dir eval_dataset_dir predict_data modal_type
predict_batch_size adapter_id load_checkpoint src_strategy_path_or_dir auto_trans_ckpt transform_process_num
only_save_strategy resume_training strategy_load_checkpoint remote_save_url seed use_parallel profile epochs
batch_size gradient_accumulation_steps sink_mode num_samples output_dir register_path do_sample
trust_remote_code
"""


def parsed(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return vars(parser.parse_args(words))


def test_all_options_of_the_script():
    assert sorted(STOCK.split()) == sorted(option.name for options in OPTIONS.values() for option in options)


def test_nothing_given_sets_nothing():
    assert settings(parsed(), {"train_dataset": {"data_loader": {}}}) == {}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--run_mode", "predict"], {"run_mode": "predict"}),
        (["--epochs", "3", "--batch_size", "2"], {"runner_config.epochs": 3, "runner_config.batch_size": 2}),
        (["--use_parallel", "true"], {"use_parallel": True}),
        (["--auto_trans_ckpt", "False"], {"auto_trans_ckpt": False}),
        (["--resume_training", "True"], {"resume_training": True}),
        (["--resume_training", "tiny_rank_0-1_2.ckpt"], {"resume_training": "tiny_rank_0-1_2.ckpt"}),
        (["--mode", "0", "--device_target", "CPU"], {"context.mode": 0, "context.device_target": "CPU"}),
        (["--do_sample", "False"], {"model.model_config.do_sample": False}),
        (["--train_dataset_dir", "x"], {"train_dataset.data_loader.dataset_dir": "x"}),
    ],
)
def test_what_is_set(words, found):
    assert settings(parsed(*words), {}) == found


def test_samples_of_the_data_sets_that_there_are():
    found = settings(
        parsed("--num_samples", "5"), {"train_dataset": {"data_loader": {"type": "x"}}, "eval_dataset": {}}
    )
    assert found == {"train_dataset.data_loader.num_samples": 5}


def test_a_strategy_of_a_folder(tmp_path):
    words = parsed("--strategy_load_checkpoint", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no \\.ckpt file"):
        settings(words, {})
    (tmp_path / "a.ckpt").touch()
    assert settings(words, {}) == {"parallel.strategy_ckpt_load_file": str(tmp_path / "a.ckpt")}


@pytest.mark.parametrize("words", [["--use_parallel", "yes"], ["--epochs", "x"], ["--run_mode", "learn"]])
def test_bad_values(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(*words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


# ---- predict_data


def test_one_question_of_several_parts():
    asked = input_data(["a.png", "b.JPG", "What?"], ["image", "image", "TEXT"])
    assert asked == [[{"image": "a.png"}, {"image": "b.JPG"}, {"text": "What?"}]]


def test_texts():
    assert input_data(["Hello", "Bye"], None) == ["Hello", "Bye"]
    assert input_data([r"Hello\nyou"], None) == "Hello\nyou"
    assert input_data(None, None) is None


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b.png", "a.JPG", "note.txt", "more/c.jpeg"):
        (tmp_path / name).touch()
    assert input_data([str(tmp_path)], None) == [str(tmp_path / name) for name in ("a.JPG", "b.png", "more/c.jpeg")]


@pytest.mark.parametrize(
    ("data", "kinds", "message"),
    [
        (["a.png"], ["image", "text"], "1 parts and 2 types"),
        (["a.gif", "What?"], ["image", "text"], "a.gif: with --modal_type image the name must end"),
        (["a.png"], ["picture"], "image, video or text is expected"),
        (None, ["text"], "--modal_type needs --predict_data"),
    ],
)
def test_what_does_not_go_together(data, kinds, message):
    with pytest.raises(ValueError, match=message):
        input_data(data, kinds)
