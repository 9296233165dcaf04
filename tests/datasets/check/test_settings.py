"""What a check reads of a YAML, against the classes that training makes of it."""

from __future__ import annotations

import pytest
import yaml

from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.text.tags import Tags
from tests.support.check_samples import VOCABULARY, checked, only, talk, write_yaml

STRING = r"a string \(in quotes, or leave the key out\)"


def test_settings_are_those_of_the_template(tmp_path):
    """Defaults and given values, against the classes that training makes of the YAML."""
    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    for given in (
        {},
        {
            "system_message": "S",
            "user_role_name": "human",
            "assistant_role_name": "gpt",
            "user_prompt": "P",
            "assistant_prompt": "A",
            "image_overflow": "skip_sample",
            "modal_content_padding_size": 3,
            "exif_rotation": True,
            "image_policy": {"max_pixels": 5},
        },
    ):
        tokenizer = QwenVLTokenizer(VOCABULARY)
        template = QwenVLContentTransformTemplate(tokenizer=tokenizer, mode="train", max_length=77, **given)
        settings = read_settings(write_yaml(tmp_path, max_length=77, num_queries=None, **given))
        assert settings.layout == template.layout
        assert settings.max_images == template.modal_content_padding_size
        assert settings.policy == template.image_transform.policy
        assert settings.exif_rotation == template.image_transform.exif_rotation
        assert settings.image_slots == template.num_queries


@pytest.mark.parametrize("key", ["image_slots", "num_queries", "n_queries"])
def test_settings_of_the_tokenizer(tmp_path, key):
    tokenizer = {key: 9, "image_start_tag": "[i]", "allowed_special": ["<img>"]}
    settings = read_settings(write_yaml(tmp_path, tokenizer=tokenizer, num_queries=None))
    assert (settings.image_slots, settings.tags) == (9, Tags(image_start="[i]"))
    assert settings.allowed_special == ("<img>",) and settings.vocab_file == str(VOCABULARY)
    assert read_settings(write_yaml(tmp_path, tokenizer=tokenizer, num_queries=7)).image_slots == 7
    assert read_settings(write_yaml(tmp_path), vocab_file="other").vocab_file == "other"


def test_tags_that_are_not_special_are_text(folder):
    assert only(checked(folder, [talk("<img>")])).kind == "unclosed tag"
    assert not checked(folder, [talk("<img>")], tokenizer={"allowed_special": "none"}).counts


def test_keys_of_the_loader(folder):
    record = {"talk": [{"role": "user", "text": "q"}, {"role": "assistant", "text": "r"}]}
    loader = {"data_field": "talk", "from_keyword": "role", "value_keyword": "text"}
    assert not checked(folder, [record], loader=loader).counts
    assert only(checked(folder, [record])).kind == "malformed record"


def test_folders_of_pictures(folder):
    """As `QwenVLDataLoader` and the template: the loader's goes first, a file stands for its folder."""
    other = folder / "other"
    other.mkdir()
    both = write_yaml(folder, loader={"dataset_dir": str(folder)}, dataset_dir=str(other))
    assert read_settings(both).root == str(folder)
    assert read_settings(both, dataset_dir=str(other)).root == str(other)
    assert read_settings(write_yaml(folder, dataset_dir=str(other))).root == str(other)
    assert read_settings(write_yaml(folder)).root is None
    file = read_settings(write_yaml(folder, loader={"dataset_dir": str(folder / "a.png")}))
    assert file.root == str(folder) and file.policy.allow_outside
    with pytest.raises(FileNotFoundError, match=r"dataset_dir .*nowhere: no such folder"):
        read_settings(both, dataset_dir=str(folder / "nowhere"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda d: d.pop("train_dataset"),
            r"there is no section train_dataset, as YAMLs for fine-tuning have it \(`mindformers-qwenvl yaml`",
        ),
        (
            lambda d: d["train_dataset"].pop("data_loader"),
            r"train_dataset\.data_loader: a section with keys is expected, there is none",
        ),
        (
            lambda d: d["train_dataset"]["modal_to_text_transform"].pop("model_transform_template"),
            r"train_dataset\.modal_to_text_transform\.model_transform_template: a section .* there is none",
        ),
        (
            lambda d: d["train_dataset"]["modal_to_text_transform"].pop("max_length"),
            r"transform\.max_length: a whole number of 1 or more is expected",
        ),
        (
            lambda d: d["train_dataset"]["modal_to_text_transform"]["model_transform_template"].update(type="Other"),
            r"template\.type: QwenVLContentTransformTemplate is expected, got 'Other'",
        ),
    ],
)
def test_yamls_that_are_not_for_fine_tuning(tmp_path, change, reason):
    path = write_yaml(tmp_path)
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=rf"finetune\.yaml: .*{reason}"):
        read_settings(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"finetune\.yaml, line 1.*not valid YAML"):
        read_settings(path)


def test_overlays_are_read_with_their_base(tmp_path):
    write_yaml(tmp_path, max_length=77, system_message="S").rename(tmp_path / "base.yaml")
    section = {"modal_to_text_transform": {"max_length": 99}}
    overlay = {"base_config": "base.yaml", "train_dataset": section, "runner_config": {"batch_size": 3}}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    settings = read_settings(tmp_path / "overlay.yaml")
    assert (settings.max_length, settings.layout["system_message"]) == (99, "S")
    assert settings.vocab_file == str(VOCABULARY)
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"overlay\.yaml: its base_config: .*base\.yaml: no such file"):
        read_settings(tmp_path / "overlay.yaml")


def test_a_yaml_of_the_package_by_its_name():
    assert read_settings("finetune_qwenvl_9.6b_stage1").max_length == 512


def test_the_yamls_of_the_package_are_read():
    from pathlib import Path

    files = sorted((Path(__file__).parents[3] / "yaml").glob("finetune*.yaml"))
    assert len(files) >= 3
    assert {read_settings(file).max_length for file in files} == {86, 512, 2048}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"system_message": None}, rf"system_message: {STRING} is expected, got None"),
        ({"modal_content_padding_size": None}, "modal_content_padding_size: a whole number of 1 or more is expected"),
        ({"user_prompt": 7}, rf"user_prompt: {STRING} is expected, got 7"),
        ({"image_policy": 5}, "image_policy: expected a section"),
        ({"image_policy": "x"}, "image_policy: expected a section"),
        ({"dataset_dir": 5}, rf"dataset_dir: {STRING} is expected, got 5"),
        ({"loader": {"dataset_dir": 5}}, rf"dataset_dir: {STRING} is expected, got 5"),
        ({"loader": {"from_keyword": ["a"]}}, rf"data_loader\.from_keyword: {STRING} is expected"),
        *(
            ({"loader": {"num_samples": value}}, r"data_loader\.num_samples: a whole number of 1 or more is expected")
            for value in (0, -1, 1.5, "abc")
        ),
        ({"tokenizer": {"vocab_file": 5}}, rf"vocab_file: {STRING} is expected, got 5"),
        ({"tokenizer": {"allowed_special": 5}}, r"tokenizer\.allowed_special: 'all'.* is expected, got 5"),
        ({"tokenizer": {"image_start_tag": 5}}, rf"image_start_tag: {STRING} is expected, got 5"),
    ],
)
def test_values_that_are_refused_are_named(tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        read_settings(write_yaml(tmp_path, **options))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda d: d["train_dataset"].update(tokenizer="x"),
            r"train_dataset\.tokenizer: a section with keys is expected, got 'x'",
        ),
        (
            lambda d: d.update(model={"model_config": {"num_queries": 9}}),
            r"num_queries is 16 for the data, 9 in model\.model_config",
        ),
    ],
)
def test_sections_that_do_not_fit(tmp_path, change, reason):
    path = write_yaml(tmp_path)
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=reason):
        read_settings(path)
