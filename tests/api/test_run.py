from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

import fedlite
from fedlite.data import load

PRIVATE = {
    "federation": {"rounds": 3, "sites": 3},
    "model": {"name": "mlp"},
    "training": {"steps": 2},
    "privacy": {"unit": "record", "epsilon": 2.0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedlite.Run:
    return fedlite.simulate(PRIVATE, tmp_path_factory.mktemp("api") / "run", engine="serial")


@pytest.mark.long
def test_a_run_is_opened_again_by_its_directory(run: fedlite.Run, tmp_path: Path) -> None:
    again = fedlite.load(run.directory)
    assert again == run and again.summary == run.summary
    with pytest.raises(ValueError, match="no such directory"):
        fedlite.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no summary here"):
        fedlite.load(tmp_path)


def test_rounds_are_flat_rows(run: fedlite.Run) -> None:
    table = pandas.DataFrame(run.rounds)
    assert table["round"].tolist() == [1, 2, 3]
    assert table["bytes_up"].sum() == run.summary["bytes"]["up"]
    assert table["accuracy.deep"].iloc[-1] == run.summary["accuracy"]["deep"]
    assert table["epsilon"].is_monotonic_increasing


def test_the_released_model_scores_what_the_summary_says(run: fedlite.Run) -> None:
    test = load("digits").test
    assert test is not None
    model = run.model()
    assert not model.training and run.scenario.privacy.expected_batch > 0
    with torch.no_grad():
        shallow, deep = model(model.prepare(torch.from_numpy(test.x)))
    for name, logits in (("shallow", shallow), ("deep", deep)):
        np.testing.assert_allclose(run.answers(test.x, branch=name), logits.numpy(), atol=1e-6)
        found = run.predict(test.x, branch=name)
        assert found.dtype == np.int64
        assert np.mean(found == test.y) == pytest.approx(run.summary["accuracy"][name])
    # Whatever holds numbers will do, and one record is a batch of one.
    assert run.predict(test.x[:1].tolist()).tolist() == run.predict(test.x[:1]).tolist()


def test_wrong_records_are_told_with_the_shape(run: fedlite.Run) -> None:
    with pytest.raises(ValueError, match=r"x: must have the shape \[n, 1, 8, 8\], got \[5, 64\]"):
        run.predict(np.zeros((5, 64)))
    with pytest.raises(ValueError, match=r"x: must have the shape .* got \[3\]"):
        run.answers([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"branch: must be one of shallow, deep, got 'deepest'"):
        run.predict(np.zeros((1, 1, 8, 8)), branch="deepest")
    assert run.predict(np.zeros((0, 1, 8, 8))).shape == (0,)


@pytest.mark.long
def test_a_run_shows_itself(run: fedlite.Run) -> None:
    figure = run.figure()
    assert len(figure.axes) == 3, "quality, bytes and privacy loss"
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    shown = run._repr_html_()
    assert "data:image/png;base64," in shown and "3 sites trained one model" in shown
    assert "<script" not in shown


def test_a_run_is_audited(run: fedlite.Run) -> None:
    found = run.audit()
    assert found.clean and len(found.statements) == 3
    assert fedlite.audit_ledgers(run.directory).clean
