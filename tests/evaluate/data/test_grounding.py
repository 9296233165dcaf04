"""REFER's pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mindformers_qwenvl.evaluate.data import DataError
from tests.support.evaluation import samples_of


def test_a_pickle_that_would_run_code(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"ref_id": Path("/")}]))
    with pytest.raises(DataError, match=r"it asks for pathlib\.\w+"):
        samples_of("refcoco_val", path)
    path.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="not a pickle of plain data"):
        samples_of("refcoco_val", path)
