"""A deep branch of integers: what it answers, whose records it may read, by what it is judged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax
from typer.testing import CliRunner

from fedlite import plan as plans
from fedlite.commands.main import app
from fedlite.data import Dataset, load as load_data
from fedlite.evaluation import open_model
from fedlite.inference.bundle import Bundle, load
from fedlite.inference.calibration import GRID
from fedlite.inference.quantized import Quantized, calibrating, choosing, deviation, quantize
from fedlite.inference.release import write_bundle
from fedlite.inference.rule import Own, rule_of
from tests.inference.forged import described, signed_anew

pytestmark = pytest.mark.long

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

DIGITS = load_data("digits").test
assert DIGITS is not None
X, Y = DIGITS.x, DIGITS.y


@pytest.fixture(scope="module")
def small(run: Path) -> Quantized:
    trained = open_model(run)
    return quantize(trained, calibrating(trained))


@pytest.fixture(scope="module")
def written(run: Path) -> Path:
    to = run.parent / "integers"
    write_bundle(open_model(run), to, target="onnx-int8")
    return to


def test_only_the_tail_is_of_integers_and_it_answers_nearly_as_the_network_does(
    run: Path, made: Path, written: Path, bundle: Bundle
) -> None:
    assert (written / "stem.onnx").read_bytes() == (made / "stem.onnx").read_bytes()
    weights = {
        tuple(one.dims): one.data_type
        for one in onnx.load(written / "tail.onnx").graph.initializer
        if np.prod(one.dims) > 100
    }
    assert weights and set(weights.values()) == {onnx.TensorProto.INT8}
    assert (written / "tail.onnx").stat().st_size < 0.45 * (made / "tail.onnx").stat().st_size
    with torch.no_grad():
        wanted = open_model(run).model(torch.tensor(X))[1].numpy()
    found = load(written)
    found.threshold = None
    shares = found.predict(X).shares
    assert np.abs(shares - softmax(wanted.astype(np.float64), axis=1)).mean() < 0.01
    assert (shares.argmax(1) == wanted.argmax(1)).mean() > 0.97
    # Answers of the stem are those of the other bundle, to the bit.
    for one in (found, bundle):
        one.threshold = 0.0
    np.testing.assert_array_equal(found.predict(X).shares, bundle.predict(X).shares)
    bundle.threshold = bundle.told["threshold"]


def test_its_threshold_is_tested_against_itself_with_records_that_gave_no_ranges(
    run: Path, small: Quantized, written: Path
) -> None:
    trained = open_model(run)
    _, _, sites = plans.simulated(trained.scenario)
    parts = [site.calibration for site in sites if site.calibration is not None]
    kept = [choosing(small, part) for part in parts]
    total, left = sum(map(len, parts)), sum(map(len, kept))
    assert 0.7 * total < left < 0.9 * total and [len(choosing(trained, p)) for p in parts] == [
        len(part) for part in parts
    ]
    x, y = np.concatenate([part.x for part in kept]), np.concatenate([part.y for part in kept])
    from onnxruntime import InferenceSession

    hidden, early = InferenceSession(written / "stem.onnx").run(None, {"x": x})
    (deep,) = InferenceSession(written / "tail.onnx").run(None, {"hidden": hidden})
    scores = softmax(early.astype(np.float64), axis=1).max(axis=1)
    harmed = (deep.argmax(1) == y) & (early.argmax(1) != y)
    wanted = None
    for threshold in GRID:
        if stats.binom.cdf((harmed & (scores >= threshold)).sum(), len(y), 0.05) > 0.05:
            break
        wanted = threshold
    told = json.loads((written / "bundle.json").read_text())
    assert told["threshold"] == wanted is not None and told["calibrated"]["records"] == left
    beside = told["quantized"]
    with torch.no_grad():
        right = (trained.model(torch.tensor(X))[1].numpy().argmax(1) == Y).mean()
    assert beside["float32"] == pytest.approx(right) and beside["records"] == len(X)
    assert beside["deep"] == told["calibrated"]["accuracy"]["deep"]
    for words in ("8-bit integers", "no promise covers these"):
        assert words in told["promise"] and words in (written / "README.md").read_text()


def test_the_one_graph_and_the_trials_are_of_the_integers(written: Path, tmp_path: Path) -> None:
    found = load(written)
    answers = found.predict(X[:60])
    assert 5 < answers.early.sum() < 55
    for at in range(60):
        assert found.one(X[at]) == (answers.labels[at], answers.early[at])
    stored = np.load(written / "trials.npz")
    hidden = found._stem.run(None, {"x": stored["x"]})[0]
    np.testing.assert_array_equal(found._tail.run(None, {"hidden": hidden})[0], stored["deep"])
    assert 1e-3 <= found.tolerance <= 0.25
    for wrong in (0, -1, 0.3, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"tolerance must be above 0 and at most 0\.25"):
            to = tmp_path / f"{wrong}"
            signed_anew(written, to, bundle_json=described(written, tolerance=wrong))
            load(to)


def test_another_tail_is_found_by_the_trials(written: Path, tmp_path: Path) -> None:
    graph = onnx.load(written / "tail.onnx")
    scale = max(
        (one for one in graph.graph.initializer if one.name.endswith("_scale")),
        key=lambda one: len(onnx.numpy_helper.to_array(one).reshape(-1)),
    )
    larger = 1.5 * onnx.numpy_helper.to_array(scale)
    scale.CopyFrom(onnx.numpy_helper.from_array(larger.astype(np.float32), scale.name))
    signed_anew(written, tmp_path / "b", tail_onnx=graph.SerializeToString())
    with pytest.raises(ValueError, match="deep answers to its stored inputs are others"):
        load(tmp_path / "b")


def test_two_ways_to_compute_the_same_integers_are_near(small: Quantized) -> None:
    assert 0 <= deviation(small, X) < 0.06


@pytest.mark.parametrize(
    ("table", "key", "value", "rule"),
    [
        ("privacy", "unit", "record", r"privacy\.unit is 'record'.*charges"),
        ("privacy", "unit", "client", r"privacy\.unit is 'client'.*charges"),
        ("inference", "calibration", 0.0, r"for a run without inference\.calibration"),
        ("data", "name", "csv", "its records are at the sites"),
    ],
)
def test_ranges_come_of_no_record_that_a_coordinator_may_not_read(
    run: Path, tmp_path: Path, table: str, key: str, value: object, rule: str
) -> None:
    trained = open_model(run)
    changed = replace(getattr(trained.scenario, table), **{key: value})
    asked = replace(trained, scenario=replace(trained.scenario, **{table: changed}))
    with pytest.raises(ValueError, match=rule):
        write_bundle(asked, tmp_path / "b", target="onnx-int8")
    assert not (tmp_path / "b").exists()
    # An operator's own records, at his place.
    np.savez(tmp_path / "ours.npz", x=X, y=Y)
    own = Own(tmp_path / "ours.npz", alpha=0.1)
    write_bundle(asked, tmp_path / "b", own=own, target="onnx-int8")
    told = load(tmp_path / "b").told
    assert told["threshold"] is not None
    assert told["calibrated"]["records"] == told["quantized"]["records"] < 0.9 * len(X)


def test_a_delivered_model_has_no_records_of_the_run(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "scenario.toml").unlink()
    with pytest.raises(ValueError, match="must have --calibrate-with"):
        write_bundle(open_model(copy), tmp_path / "b", target="onnx-int8")


def test_records_that_say_nothing_of_ranges_are_refused(run: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    with pytest.raises(ValueError, match="must have 32 records at least for the ranges"):
        quantize(trained, Dataset(X[:40], Y[:40]))
    broken = np.where(np.arange(X.size).reshape(X.shape) % 64 == 3, np.nan, X)
    with pytest.raises(ValueError, match="records must be finite"):
        quantize(trained, Dataset(broken.astype(np.float32), Y))
    # All alike: ranges of no width.
    alike = quantize(trained, Dataset((1e-30 * X).astype(np.float32), Y))
    assert np.isfinite(alike.answers(Dataset(X, Y))["deep"]).all()
    for given, words in (
        (
            ["--target", "tflite"],
            "--target: must be one of onnx, onnx-int8, executorch, got 'tflite'",
        ),
        (["--target", "onnx-int8", "--site", "north"], "--site: must be left out"),
    ):
        done = CliRunner().invoke(app, ["export", str(run), "--to", str(tmp_path / "n"), *given])
        assert done.exit_code and words in " ".join(done.output.split())


def test_a_sites_own_threshold_is_its_own_with_integers_too(run: Path, small: Quantized) -> None:
    inference = replace(small.scenario.inference, threshold="site")
    asked = replace(small, scenario=replace(small.scenario, inference=inference))
    one, other = (rule_of(asked, name) for name in ("site-01", "site-02"))
    assert one.calibrated is not None and other.calibrated is not None
    assert one.calibrated["records"] != other.calibrated["records"]
    with pytest.raises(ValueError, match="--site: must be one of site-01, site-02"):
        rule_of(asked)
