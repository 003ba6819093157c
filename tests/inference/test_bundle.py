"""A run as a bundle: the same ways and answers as PyTorch's, and nothing else is let in.

Covers fedlite/inference/release.py, fedlite/inference/manifest.py, fedlite/inference/preparing.py,
fedlite/inference/bundle_card.py.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import Dataset, SiteData, load as load_data, standardize
from fedlite.data.spread import filled
from fedlite.data.standardization import statistics
from fedlite.evaluation import open_model
from fedlite.identity import keys
from fedlite.inference import graphs, manifest
from fedlite.inference.bundle import Bundle, load
from fedlite.inference.release import write_bundle
from fedlite.models import Branched, build
from tests.inference.forged import described, signed_anew

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

DIGITS = load_data("digits").test
assert DIGITS is not None
X = DIGITS.x


def expected(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return by torch alone whether each test input leaves early, and its probabilities."""
    threshold = json.loads((run / "summary.json").read_text())["inference"]["threshold"]
    model = open_model(run).model
    with torch.no_grad():
        shallow, deep = (one.double().numpy() for one in model(model.prepare(torch.tensor(X))))
    early = softmax(shallow, axis=1).max(axis=1) >= threshold
    return early, softmax(np.where(early[:, None], shallow, deep), axis=1)


def test_every_test_input_goes_the_same_way_and_gets_the_same_answer(
    run: Path, bundle: Bundle
) -> None:
    early, shares = expected(run)
    found = bundle.predict(X)
    assert 30 < early.sum() < len(X) - 30, "both ways are taken"
    np.testing.assert_array_equal(found.early, early)
    np.testing.assert_array_equal(found.classes, shares.argmax(axis=1))
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
    told = json.loads((run / "summary.json").read_text())["inference"]
    assert found.early.mean() == told["share_shallow"]
    assert DIGITS is not None
    assert (found.classes == DIGITS.y).mean() == pytest.approx(told["accuracy"]["adaptive"])


def test_the_one_graph_goes_the_same_ways(run: Path, bundle: Bundle) -> None:
    early, shares = expected(run)
    for at in range(len(X)):
        assert bundle.one(X[at]) == (str(shares[at].argmax()), early[at])


def test_a_batch_does_not_matter_and_neither_does_its_order(bundle: Bundle) -> None:
    whole, order = bundle.predict(X), np.random.default_rng(0).permutation(len(X))
    np.testing.assert_array_equal(bundle.predict(X[order]).classes, whole.classes[order])
    assert [bundle.predict(X[at : at + 1]).labels[0] for at in range(20)] == list(whole.labels[:20])


def test_it_needs_no_torch_and_the_cards_own_code_runs(made: Path, bundle: Bundle) -> None:
    code = re.findall(r"```python\n(.*?)```", (made / "README.md").read_text(), re.S)
    text = (
        "import sys\nsys.modules['torch'] = None\nimport numpy as np\n"
        "import io\nx = np.load(io.BytesIO(sys.stdin.buffer.read()))\n"
        f"{code[0]}\nprint(sum(answers.early), *answers.classes)\n"
    )
    given = io.BytesIO()
    np.save(given, X[:40])
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=made, input=given.getvalue(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    wanted = bundle.predict(X[:40])
    last = done.stdout.decode().splitlines()[-1]
    assert last.split() == [str(wanted.early.sum()), *map(str, wanted.classes)]


def test_the_card_and_the_description_say_what_was_promised_and_measured(
    run: Path, made: Path, bundle: Bundle
) -> None:
    card = (made / "README.md").read_text()
    told = json.loads((run / "summary.json").read_text())["inference"]
    for words in (
        "At most 5 points of the deep branch's accuracy are lost, with probability 95 %",
        f"early from {told['threshold']} on",
        f"{100 * told['share_shallow']:.1f} %",
        "privacy | none is claimed",
    ):
        assert words in card, words
    assert bundle.promise in card and bundle.threshold == told["threshold"]
    assert bundle.told["calibrated"]["records"] == told["records"] > 300
    assert bundle.labels == tuple("0123456789")


def test_nothing_in_it_names_the_machine_that_made_it(made: Path) -> None:
    here = Path(graphs.__file__).parents[1]
    for file in made.iterdir():
        content = file.read_bytes()
        for told in (str(here), str(made.parent), torch.__path__[0], ".py"):
            assert told.encode() not in content, (file.name, told)


@pytest.mark.parametrize(
    "name", ["bundle.json", "stem.onnx", "tail.onnx", "model.onnx", "trials.npz", "README.md"]
)
@pytest.mark.parametrize("how", ["changed", "cut", "gone", "linked"])
def test_what_is_not_as_it_was_signed_is_refused(
    made: Path, tmp_path: Path, name: str, how: str
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    file, content = copy / name, (copy / name).read_bytes()
    if how == "changed":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif how == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
        if how == "linked":
            file.symlink_to(made / name)
    rule = "is not what was signed" if how in ("changed", "cut") else "no such file"
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: {rule}"):
        load(copy)


def test_a_file_more_and_a_folder_without_manifest_are_refused(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "more.py").write_text("print(1)")
    with pytest.raises(ValueError, match=r"more\.py: must not be there"):
        load(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(ValueError, match="give a folder that fedlite export has written"):
        load(copy)


@pytest.mark.parametrize("size", [1e300, 1e38])
def test_numbers_that_overflow_get_no_answer(bundle: Bundle, size: float) -> None:
    x = np.concatenate([X[:1].astype(np.float64), np.full((1, 1, 8, 8), size)])
    rule = "row 1 has larger" if size > 1e39 else "its answer to row 1 of its batch is NaN"
    with pytest.raises(ValueError, match=rule):
        bundle.predict(x)
    with pytest.raises(ValueError, match="x: must"):
        bundle.one(x[1])


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (X[:2, 0], r"x: must have the shape \[n, 1, 8, 8\], n at least 1, got \[2, 8, 8\]"),
        (X[:0], "n at least 1"),
        (np.float32(1), "n at least 1"),
        (np.zeros((1, 1, 8, 8), np.uint8), "x: must hold floating-point numbers"),
        (np.full((1, 1, 8, 8), "a"), "x: must hold floating-point numbers"),
        (np.where(np.arange(3)[:, None, None, None] == 1, np.nan, X[:3]), "x: .* row 1 has NaN"),
        (np.full_like(X[:1], np.inf), "row 0 has NaN or infinity"),
    ],
)
def test_what_is_no_input_is_refused(bundle: Bundle, x: Any, rule: str) -> None:
    for missing in (False, True):
        with pytest.raises(ValueError, match=rule):
            bundle.predict(x, missing=missing)


def test_the_command_answers_a_file_and_checks_the_signer(
    made: Path, bundle: Bundle, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=X[:30].reshape(30, 64))
    asked = ["predict", str(made), str(tmp_path / "x.npz")]
    out = tmp_path / "a.csv"
    done = CliRunner().invoke(app, [*asked, "--signed-by", bundle.signed_by, "--out", str(out)])
    assert done.exit_code == 0, done.output
    with out.open() as lines:
        rows = list(csv.DictReader(lines))
    found = bundle.predict(X[:30])
    assert [row["label"] for row in rows] == list(found.labels)
    assert [row["branch"] == "shallow" for row in rows] == found.early.tolist()
    told = CliRunner().invoke(app, [*asked, "--json"])
    assert json.loads(told.stdout)["rows"][0]["label"] == found.labels[0]
    assert any(bundle.signed_by in note for note in json.loads(told.stdout)["notes"])
    for more, rule in (
        (["--signed-by", "00" * 32], "must be signed by"),
        (["--branch", "deep"], "--branch: must be left out for a bundle"),
    ):
        refused = CliRunner().invoke(app, [*asked, *more])
        assert refused.exit_code and rule in " ".join(refused.output.split())


def test_a_folder_that_holds_something_is_left_alone(made: Path, run: Path) -> None:
    key = keys.load(run / "checkpoint" / "release.pem")
    with pytest.raises(ValueError, match="must be empty or not be there yet"):
        manifest.write(made, {}, key)


@pytest.mark.parametrize("kind", ["standardize", "ranges"])
def test_raw_values_are_prepared_as_sites_prepared_theirs(
    made: Path, tmp_path: Path, kind: str
) -> None:
    rng = np.random.default_rng(3)
    raw = rng.normal(40, 30, (50, 1, 8, 8))
    raw[rng.random(raw.shape) < 0.05] = np.nan
    raw[:, 0, 0, 0] = np.nan
    data = Dataset(raw, np.zeros(50, np.int64), raw=True)
    whole = SiteData("a", data, data)
    if kind == "standardize":
        mean, spread = statistics(data)
        how = {
            "mean": np.where(np.isnan(mean), np.array(None), mean).tolist(),
            "spread": spread.tolist(),
        }
        wanted = standardize(whole).test.x
    else:
        low, high = np.full((1, 8, 8), -5.0), np.full((1, 8, 8), 60.0)
        how = {"low": low.tolist(), "high": high.tolist()}
        wanted = filled(whole, np.stack([low, high])).test.x
    told = json.loads((made / "bundle.json").read_text())
    told |= {"preprocessing": {"kind": kind, "fills": True} | how}
    signed_anew(made, tmp_path / "other", bundle_json=json.dumps(told).encode())
    plain, found = load(made), load(tmp_path / "other").predict(raw, missing=True)
    np.testing.assert_array_equal(found.shares, plain.predict(wanted).shares)
    with pytest.raises(ValueError, match="missing=True"):
        load(tmp_path / "other").predict(raw)


@pytest.mark.parametrize(
    "changed",
    [
        {"preprocessing": {}},
        {"preprocessing": {"kind": "magic", "fills": False}},
        {"preprocessing": {"kind": "standardize", "fills": True, "mean": "x", "spread": 1}},
        {"preprocessing": {"kind": "standardize", "fills": True, "mean": 0, "spread": -1}},
        {"preprocessing": {"kind": "ranges", "fills": True, "low": 1, "high": 0}},
        {"preprocessing": {"kind": "ranges", "fills": True, "low": [[1, 2]], "high": [[3, 4]]}},
        {"tolerance": 0.25},
    ],
)
def test_a_signed_bundle_that_could_not_answer_is_not_loaded(
    made: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    signed_anew(made, tmp_path / "other", bundle_json=described(made, **changed))
    with pytest.raises(ValueError, match=r"bundle\.json: (preprocessing|tolerance) must be"):
        load(tmp_path / "other")


def test_a_run_that_tells_no_classes_apart_has_no_bundle(run: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    one = build("mlp", (4,), 2, seed=0)
    assert isinstance(one, Branched)
    with pytest.raises(ValueError, match="--scale-by: must be left out"):
        write_bundle(trained, tmp_path / "a", scale_by=tmp_path / "x.csv")
    from fedlite.scenario import from_dict

    numbers = replace(trained, scenario=from_dict({"task": {"name": "multilabel"}}))
    with pytest.raises(ValueError, match="must be a run that tells classes apart"):
        write_bundle(numbers, tmp_path / "b")
