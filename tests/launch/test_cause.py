"""What an error is about, out of what the host wraps it in."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.launch.cause import explain, root

MINDDATA = """Exception thrown from user defined Python function in dataset.

------------------------------------------------------------------
- Python Call Stack:
------------------------------------------------------------------
Traceback (most recent call last):
  File "map.py", line 3, in run
    sample = read(3)
ValueError: train.json: sample 3 (id 'x'): image 9.png: no such file

------------------------------------------------------------------
- Dataset Pipeline Error Message:
------------------------------------------------------------------
[ERROR] Execute user Python code failed, check 'Python Call Stack' above.
"""


def raised(action) -> BaseException:
    with pytest.raises(BaseException) as found:
        action()
    return found.value


def test_an_error_alone():
    assert explain(ValueError("epochs must be at least 1")) == ["ValueError: epochs must be at least 1"]
    assert explain(KeyError()) == ["KeyError"]


def test_the_cause_is_first():
    def fail():
        try:
            try:
                raise FileNotFoundError("no train.json")
            except FileNotFoundError as error:
                raise ValueError("bad data set") from error
        except ValueError:
            raise RuntimeError("training failed\nand a long story")  # noqa: B904  # as the host does

    error = raised(fail)
    assert isinstance(root(error), FileNotFoundError)
    assert explain(error) == ["FileNotFoundError: no train.json", "raised as RuntimeError: training failed"]


def test_what_was_handled_on_purpose_is_left_out():
    def fail():
        try:
            raise KeyError("internal")
        except KeyError:
            raise ValueError("say True or False") from None

    assert explain(raised(fail)) == ["ValueError: say True or False"]


def test_the_error_of_a_worker_of_the_data_pipeline():
    first, second = explain(RuntimeError(MINDDATA))
    assert first == "ValueError: train.json: sample 3 (id 'x'): image 9.png: no such file"
    assert second == "raised as RuntimeError: Exception thrown from user defined Python function in dataset."


def test_a_circle_ends():
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert explain(one)[0] == "ValueError: two"


def test_an_error_that_cannot_say_anything():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert explain(Mute()) == ["Mute: (its text cannot be read: RuntimeError)"]
