"""The smallest deep branch that may be: all steps joined, judged by records of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import Dataset, load as load_data
from fedlite.evaluation import open_model
from fedlite.inference.bundle import load
from fedlite.inference.quantized import calibrating
from fedlite.inference.release import write_bundle
from fedlite.inference.small import search
from fedlite.models import Branched

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

DIGITS = load_data("digits").test
assert DIGITS is not None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "STEPS", 40)
    monkeypatch.setattr(search, "SHARES", (0.0, 0.5))
    monkeypatch.setattr(search, "_FEWEST", 20)


def test_it_tries_the_smallest_first_and_ends_with_the_one_that_was(run: Path) -> None:
    trained = open_model(run)
    assert isinstance(trained.model, Branched) and DIGITS is not None
    learning, judging = (Dataset(DIGITS.x[at], DIGITS.y[at]) for at in (np.s_[:200], np.s_[200:]))
    found = list(search.tries(trained.model, learning, judging, steps=10))
    sizes = [one.parameters for one in found]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    with torch.no_grad():
        x = torch.from_numpy(judging.x)
        whole = trained.model(x)[1].argmax(1).numpy() == judging.y
        for one in found:
            early, deep = one.model(x)
            right = deep.argmax(1).numpy() == judging.y
            assert one.loss == pytest.approx(whole.mean() - right.mean())
            torch.testing.assert_close(early, trained.model(x)[0], rtol=0, atol=0)
    assert (found[-1].share, found[-1].error, found[-1].loss) == (0.0, None, 0.0)


@pytest.mark.long
def test_a_bundle_of_it_is_smaller_and_its_threshold_comes_of_other_records(
    run: Path, tmp_path: Path
) -> None:
    trained = open_model(run)
    records = calibrating(trained)
    write_bundle(trained, tmp_path / "whole", target="onnx-int8")
    write_bundle(trained, tmp_path / "small", target="onnx-int8", max_loss=0.5)
    whole, small = load(tmp_path / "whole"), load(tmp_path / "small")
    tails = [(tmp_path / name / "tail.onnx").stat().st_size for name in ("small", "whole")]
    assert tails[0] < tails[1]
    told = small.told["smaller"]
    assert told["energy_less"] == 0.05 and told["loss"] <= 0.5
    assert small.told["costs"]["tail"]["macs"] < whole.told["costs"]["tail"]["macs"]
    assert small.told["calibrated"]["macs"]["deep"] == told["macs"]
    used = {one.told["calibrated"]["records"] for one in (whole, small)}
    assert len(used) == 2 and abs(min(used) - 0.5 * len(records)) < 0.1 * len(records)
    assert small.told["quantized"]["float32"] == whole.told["quantized"]["float32"]
    assert "8-bit integers" in small.promise


def test_what_cannot_be_is_refused(run: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    assert isinstance(trained.model, Branched) and DIGITS is not None
    few = Dataset(DIGITS.x[:40], DIGITS.y[:40])
    with pytest.raises(ValueError, match="--max-loss: must have 20 records at least"):
        search.smallest(trained.model, few, 0.1)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="--max-loss: must be from 0 to below 1"):
            search.smallest(trained.model, few, wrong)
    told = ["export", str(run), "--to", str(tmp_path / "n"), "--max-loss", "0"]
    done = CliRunner().invoke(app, told)
    assert done.exit_code and "--max-loss: must be left out" in " ".join(done.output.split())
