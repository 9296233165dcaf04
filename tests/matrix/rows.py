"""The rows of the matrix, with what to install for each, and its columns, with the tests that stand for each."""

from __future__ import annotations

from dataclasses import dataclass

# What the tests need beside the host; mindformers-qwenvl[test] without the pair.
TESTS = (
    *("tiktoken", "pillow", "pluggy", "pyyaml", "safetensors", "tqdm", "dashscope<2", "matplotlib", "pytest>=8"),
    *("pytest-xdist", "hypothesis", "fonttools", "hatchling", "editables"),
)
# Of MindFormers 2.1.0, whose own requirements do not resolve: its transformers, pyarrow 26 and hyper-parallel.
OF_2_1 = (
    *("transformers==4.57.1", "pyarrow==23.*", "sentencepiece", "ftfy", "regex", "jieba", "rouge_chinese"),
    *("nltk==3.9.1", "mindpet==1.0.4", "opencv-python-headless", "tokenizers", "astunparse", "numpy<2", "jinja2"),
    *("setproctitle", "tensorboardX", "deprecated", "pybind11", "datasets", "setuptools<82"),
)


@dataclass(frozen=True)
class Row:
    """A pair and a Python. `install`: arguments of pip, one tuple a call."""

    name: str
    mindformers: str
    mindspore: str
    python: str = "3.11"
    install: tuple[tuple[str, ...], ...] = ()

    def commands(self) -> tuple[tuple[str, ...], ...]:
        return self.install or ((f"mindformers=={self.mindformers}", f"mindspore=={self.mindspore}", *TESTS),)


ROWS = (
    Row("1.7", "1.7.0", "2.7.2"),
    Row("1.8", "1.8.0", "2.7.2"),
    Row("1.9", "1.9.0", "2.9.0"),
    Row(
        "2.1", "2.1.0", "2.10.0", install=(("mindspore==2.10.0", *OF_2_1, *TESTS), ("--no-deps", "mindformers==2.1.0"))
    ),
    Row("py3.10", "1.9.0", "2.9.0", "3.10"),
    Row("py3.12", "1.9.0", "2.9.0", "3.12"),
)

# Heading of a column -> the tests that stand for it: files, functions, or single cases of a function. A row runs all of
# its tests in one process, so that they share trainings and compiled networks.
CHECKS: dict[str, tuple[str, ...]] = {
    "discovery": (
        "tests/discovery/test_installed.py::test_a_process_that_never_names_us",
        "tests/discovery/test_installed.py::test_spawned_and_forked_processes",
        "tests/discovery/test_installed.py::test_broken_plugins_only_warn",
        "tests/test_registration.py::test_every_class_is_found_by_its_name",
        "tests/test_registration.py::test_tables_of_tasks_and_names",
        "tests/test_registration.py::test_the_trainer_takes_the_task",
    ),
    "logits": (
        *(
            f"tests/model/test_logits.py::test_logits_of_golden_prompts[{golden}-{prompt}]"
            for golden in ("a56", "b224")
            for prompt in ("text", "one_image", "two_images", "multi_turn", "raw_caption", "image_last")
        ),
        "tests/model/test_logits.py::test_logits_of_a_prompt_alone",
    ),
    "gradients": (
        "tests/model/test_training.py::test_loss_and_gradients[a56-batch0]",
        "tests/model/test_training.py::test_loss_and_gradients[a56-text_only]",
    ),
    "cached generation": (
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-text]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-one_image]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-two_images]",
        "tests/model/test_generate.py::test_greedy_ids_with_cache[a56-multi_turn]",
        "tests/model/test_cache.py::test_mixed_batch_answers_as_each_row_alone[a56]",
    ),
    "chat": (
        "tests/chat/test_chat.py::test_golden_prompts_and_greedy_answers",
        "tests/chat/test_chat.py::test_seeds_make_answers_reproducible",
        "tests/chat/test_chat.py::test_rows_of_a_batch_answer_as_they_do_alone",
        "tests/chat/test_chat.py::test_the_hosts_streamers",
    ),
    "train and resume": (
        "tests/stock/test_trainer.py::test_training_learns_and_saves",
        "tests/stock/test_trainer.py::test_resumed_losses_are_those_of_the_uninterrupted_training",
    ),
    "two processes": (
        "tests/stock/test_data_parallel.py::test_two_workers_are_one_with_the_same_batches",
        "tests/stock/test_data_parallel.py::test_two_killed_workers_go_on_as_if_nothing_had_been[safetensors-False]",
    ),
    "predict": (
        "tests/stock/test_trainer.py::test_greedy_ids_are_the_goldens[two_images]",
        "tests/stock/test_trainer.py::test_greedy_ids_of_a_batch_from_the_original_folder[elements]",
    ),
    "convert": (
        "tests/weights/convert/test_convert.py::test_one_file",
        "tests/weights/convert/test_convert.py::test_round_trip_is_byte_identical",
        "tests/weights/convert/test_convert.py::test_our_directory_loads_as_the_original_does",
        "tests/stock/test_trainer.py::test_the_checkpoint_of_a_training_goes_back_to_the_original_layout",
    ),
    "doors": (
        "tests/stock/test_doors.py::test_auto_config[original]",
        "tests/stock/test_doors.py::test_auto_tokenizer[original]",
        "tests/stock/test_doors.py::test_auto_processor[original]",
        "tests/stock/test_doors.py::test_auto_model[original]",
        "tests/stock/test_doors.py::test_auto_model_for_causal_lm[original]",
        "tests/stock/test_doors.py::test_pipeline_of_a_directory[original]",
        "tests/stock/test_doors.py::test_pipeline_takes_settings_of_a_call",
        "tests/stock/test_doors.py::test_pipeline_samples_as_generation_config_says",
        "tests/stock/test_doors.py::test_pipeline_of_a_network",
        "tests/stock/test_doors.py::test_code_beside_the_weights_is_never_run",
        "tests/stock/test_doors.py::test_pipeline_of_a_converted_directory",
        "tests/stock/test_doors.py::test_trainer_predict_with_a_yaml",
        "tests/stock/test_doors.py::test_trainer_predict_with_a_network",
        "tests/stock/test_doors.py::test_pipeline_of_a_name",
    ),
    "PyNative": ("tests/hosts/test_pynative.py",),
    "run and doctor": (
        "tests/launch/test_run.py::test_it_is_quiet_and_names_its_log",
        "tests/launch/test_run.py::test_evaluation_prints_the_loss",
        "tests/doctor/test_doctor.py::test_this_machine[--no-trial]",
        "tests/doctor/test_doctor.py::test_every_work_around_has_a_state[--no-trial]",
        "tests/doctor/test_doctor.py::test_the_names_are_those_that_are_registered",
    ),
}
