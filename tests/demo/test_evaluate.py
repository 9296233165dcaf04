"""`evaluate` on the demo's held-out set finds the demo's own scores: a real, if tiny, model from end to end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "support" / "driver.py"


def evaluated(folder: Path, task: str, checkpoint: Path) -> dict:
    """summary.json of a benchmark that the demo's YAML for prediction runs."""
    options = {"task": task, "data": str(folder / "test.json"), "output": f"scores_{task}", "batch_size": 10}
    settings = {"eval_task": {**options, "max_new_tokens": 60}, "load_checkpoint": str(checkpoint)}
    text = (folder / "predict_qwenvl_tiny.yaml").read_text(encoding="utf-8")
    Path("eval.yaml").write_text(text.replace("run_mode: 'predict'", "run_mode: 'eval'"), encoding="utf-8")
    given = json.dumps({"config": str(Path("eval.yaml").resolve()), "set": settings})
    driver = shutil.copy(DRIVER, Path.cwd())
    done = subprocess.run([sys.executable, driver, given], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return json.loads(Path(f"scores_{task}/summary.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_demos_own_scores(tmp_path):
    folder = tmp_path / "demo"
    words = ["-m", "mindformers_qwenvl", "demo", "--workdir", str(folder)]
    printed = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=900).stdout
    right = float(re.search(r"both together +([\d.]+)%", printed)[1])
    box_iou = float(re.search(r"mean IoU of the boxes +([\d.]+)", printed)[1])
    checkpoint = max((folder / "output").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    questions, boxes = (evaluated(folder, task, checkpoint) for task in ("vqa", "refcoco"))
    assert (questions["samples"], boxes["samples"]) == (100, 50)
    assert (questions["left_out"], boxes["left_out"]) == (
        {"an answer with a box": 50},
        {"an answer without a box": 100},
    )
    assert 100 * questions["score"] == pytest.approx(right, abs=0.051)
    assert boxes["mean_iou"] == pytest.approx(box_iou, abs=0.0051)
    assert questions["score"] > 0.8 and boxes["mean_iou"] > 0.4
