"""The model of a run opens by its directory, and a folder that is none is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite.evaluation import Trained, held_out, open_model
from tests.evaluation.conftest import make


def test_it_answers_as_the_network_does(sick: Trained) -> None:
    records = held_out(sick)
    with torch.no_grad():
        wanted = sick.model(sick.model.prepare(torch.from_numpy(records.data.x)))
    for branch, found in zip(sick.branches, wanted, strict=True):
        np.testing.assert_allclose(sick.answers(records.data)[branch], found.double().numpy())
    assert sick.labels == ("no", "yes") and sick.target == "sick"


@pytest.mark.long
def test_what_is_held_out_scores_what_the_summary_says(each: Trained) -> None:
    summary = json.loads((each.directory / "summary.json").read_text())
    told = {"accuracy": summary["accuracy"], **(summary.get("scores") or {})}
    records = held_out(each)
    for branch, answers in each.answers(records.data).items():
        nobody = np.zeros(len(records), np.int64)
        found = each.task.scores(answers, records.data.y, nobody, 1, each.scale)
        for key, part in told.items():
            if branch in part:
                assert found[key][0] == pytest.approx(part[branch]), key


def test_a_delivered_model_needs_no_scenario(sick: Trained, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        shutil.copy(sick.directory / name, tmp_path / name)
    alone, records = open_model(tmp_path), held_out(sick)
    assert alone.reading == sick.reading
    for branch, answers in sick.answers(records.data).items():
        np.testing.assert_array_equal(alone.answers(records.data)[branch], answers)


def test_what_is_no_run_is_told(sick: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.json: no such file; give the directory of a run"):
        open_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"is damaged or of an earlier release"):
        open_model(tmp_path)
    told = json.loads((sick.directory / "model.json").read_text())
    del told["labels"]
    (tmp_path / "model.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"has no 'labels'.*run the scenario again"):
        open_model(tmp_path)


NET = """
from torch import nn

from parts import tail

def make(shape, classes):
    return tail(nn.Linear(shape[0], classes))
"""
PARTS = """
from torch import nn

def tail(layer):
    return nn.Sequential(layer, nn.Identity())
"""


@pytest.mark.parametrize("name", ["net.py", "parts.py"])
def test_a_model_of_one_s_own_that_has_changed_answers_nothing(tmp_path: Path, name: str) -> None:
    """Of the same shapes: the weights would fit, and the answers be another model's."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "parts.py").write_text(PARTS)
    run = make(tmp_path, "classification", model={"name": f"{tmp_path / 'net.py'}:make"})
    assert open_model(run).branches == ("deep",)
    changed = (tmp_path / name).read_text().replace("nn.Identity()", "nn.Tanh()")
    (tmp_path / name).write_text(f"open({str(tmp_path / 'SPRUNG')!r}, 'w')\n{changed}")
    with pytest.raises(ValueError, match=r"model.name: .*net.py: must be, .* has changed; put it"):
        open_model(run)
    assert not (tmp_path / "SPRUNG").exists()
