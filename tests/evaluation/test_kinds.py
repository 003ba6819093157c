"""Whatever a source reads, a trained model answers: the same records give the same figures."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fedlite.evaluation import Trained, evaluate, held_out, open_model, predict, read
from fedlite.scenario import from_dict
from simulations.run import simulate
from tests.data.sources.writing import save_hf
from tests.evaluation.conftest import make, table

RNG = np.random.default_rng(5)


def written(folder: Path, kind: str, **renamed: str) -> Path:
    """Write one table of people in a kind of file, some of its columns renamed."""
    with table(folder / "people.csv", rows=60, seed=8).open() as lines:
        rows = [{renamed.get(k, k): v for k, v in row.items()} for row in csv.DictReader(lines)]
    for row in rows[::7]:
        row["age"] = ""
    path = folder / f"people.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
        return path

    def typed(text: str) -> Any:
        try:
            return float(text) if text else None
        except ValueError:
            return text

    columns = {name: [typed(row[name]) for row in rows] for name in rows[0]}
    if kind == "jsonl":
        told = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        path.write_text("\n".join(map(json.dumps, told)))
    elif kind == "parquet":
        parquet.write_table(pa.table(columns), path)
    else:
        save_hf(path, columns)
    return path


@pytest.mark.long
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "hf"])
def test_a_table_is_the_same_in_every_kind_of_file(
    each: Trained, tmp_path: Path, kind: str
) -> None:
    known = read(each, written(tmp_path, "csv"), columns=("ward",))
    found = read(each, written(tmp_path, kind), columns=("ward",))
    np.testing.assert_array_equal(found.data.x, known.data.x)
    np.testing.assert_array_equal(found.data.y, known.data.y)
    assert found.sites is not None and found.site_names == known.site_names == ("h0", "h1", "h2")
    assert found.sites.tolist() == known.sites.tolist()  # type: ignore[union-attr]
    assert found.columns == known.columns and set(found.columns["ward"]) == {"a", "b"}
    unanswered = read(each, tmp_path / f"people.{kind}", answered=False)
    np.testing.assert_array_equal(unanswered.data.x, known.data.x)
    told = evaluate(each, found, group=("ward",)).told
    assert told["scores"] == evaluate(each, known, group=("ward",)).told["scores"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "hf"])
def test_what_a_run_held_out_is_grouped_by_a_column_of_its_own_file(
    tmp_path: Path, kind: str
) -> None:
    path = written(tmp_path, kind)
    data = {"name": kind, "path": str(path)}
    if kind == "jsonl":
        data |= {"columns": "age, pressure, sex", "categories": "sex: f, m", "drop": ""}
    found = held_out(open_model(make(tmp_path, "classification", data=data)), ("ward",))
    assert len(found.columns["ward"]) == len(found) and set(found.columns["ward"]) == {"a", "b"}


def test_records_are_scaled_by_whose_they_were_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    path = written(tmp_path / "own", "csv", site="clinic")
    asked = {"path": str(path), "partition": "column", "partition_column": "clinic"}
    trained = open_model(make(tmp_path, "classification", data=asked))
    for kind in ("csv", "parquet", "jsonl", "hf"):
        found = read(trained, written(tmp_path, kind, site="clinic"))
        assert found.site_names == ("h0", "h1", "h2") and found.sites is not None
        for site in range(3):
            own = found.data.x[found.sites == site, 1]
            np.testing.assert_allclose((own.mean(), own.std()), (0, 1), atol=1e-6)


def trained_on(folder: Path, task: str = "classification", **data: Any) -> Trained:
    tables: dict[str, dict[str, Any]] = {
        "federation": {"rounds": 20, "sites": 2},
        "data": data,
        "task": {"name": task},
        "model": {"name": "linear" if data["name"] == "npz" and "shape" in data else "mlp"},
        "training": {"learning_rate": 1.0, "epochs": 3},
    }
    shutil.rmtree(folder / "run", ignore_errors=True)
    simulate(from_dict(tables), folder / "run", engine="serial", quiet=True)
    return open_model(folder / "run")


def arrays(path: Path, **found: Any) -> str:
    np.savez(path, **found)
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize("whole", [True, False])
def test_arrays_are_scaled_by_the_run_s_own_range(tmp_path: Path, whole: bool) -> None:
    """They stood as they were: a model that is right was told to be no better than chance."""
    x = RNG.integers(0, 1001, (400, 2, 3)).astype(np.int64 if whole else np.float64)
    y = (x[:, 0].sum(axis=1) > x[:, 1].sum(axis=1)).astype(int)
    own = arrays(tmp_path / "own.npz", x=x[:300], y=y[:300])
    trained = trained_on(tmp_path, name="npz", path=own, ranges="0:1000", shape="6")
    new = Path(arrays(tmp_path / "new.npz", x=x[300:], y=y[300:]))
    found = read(trained, new)
    np.testing.assert_allclose(found.data.x, x[300:].reshape(-1, 6) / 500 - 1, atol=1e-6)
    assert evaluate(trained, found).told["scores"]["deep"]["accuracy"] > 0.9
    told = json.loads((tmp_path / "run" / "model.json").read_text())
    del told["range"]
    (tmp_path / "run" / "model.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"model.json: must say the range.*run the scenario again"):
        read(open_model(tmp_path / "run"), new)


@pytest.mark.long
def test_bytes_are_pictures_here_too(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (40, 5, 4), dtype=np.uint8)
    own = arrays(tmp_path / "own.npz", x=x, y=np.arange(40) % 2)
    found = read(trained_on(tmp_path, name="npz", path=own), Path(own))
    np.testing.assert_array_equal(found.data.x[:, 0], x.astype(np.float32) / np.float32(255))
    wrong = arrays(tmp_path / "y.npz", x=RNG.normal(size=(40, 3)), y=RNG.normal(size=40))
    numbers = trained_on(tmp_path, "regression", name="npz", path=wrong)
    bad = arrays(tmp_path / "bad.npz", x=np.zeros((2, 3)), y=np.array([0, np.nan]))
    with pytest.raises(ValueError, match=r"bad.npz: y must be finite"):
        read(numbers, Path(bad))


def test_folders_of_pictures_are_read_with_and_without_classes(
    sick: Trained, tmp_path: Path
) -> None:
    files = {"cat": [], "dog": []}  # type: dict[str, list[np.ndarray]]
    (tmp_path / "flat").mkdir()
    for at in range(40):
        name = ("cat", "dog")[at % 2]
        values = RNG.integers(0, 128, (6, 5)).astype(np.uint8) + np.uint8(127 * (at % 2))
        (tmp_path / "own" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "own" / name / f"{at:02d}.png")
        Image.fromarray(values).save(tmp_path / "flat" / f"{at:02d}.png")
        files[name].append(values)
    trained = trained_on(tmp_path, name="images", path=str(tmp_path / "own"))
    found = read(trained, tmp_path / "own")
    theirs = np.stack(files["cat"] + files["dog"]).astype(np.float32) / 255
    np.testing.assert_allclose(found.data.x[:, 0], theirs, atol=1e-7)
    assert found.data.y.tolist() == [0] * 20 + [1] * 20
    assert evaluate(trained, found).told["scores"]["deep"]["accuracy"] > 0.9
    flat = predict(trained, read(trained, tmp_path / "flat", answered=False))
    below = predict(trained, read(trained, tmp_path / "own", answered=False))
    assert [*flat.labels[::2], *flat.labels[1::2]] == list(below.labels)
    with pytest.raises(ValueError, match=r"column 'ward', and pictures have none"):
        read(trained, tmp_path / "own", columns=("ward",))
    (tmp_path / "own" / "owl").mkdir()
    Image.fromarray(values).save(tmp_path / "own" / "owl" / "1.png")
    with pytest.raises(ValueError, match=r"owl.*its folder must be one of the classes cat, dog"):
        read(trained, tmp_path / "own")
    with pytest.raises(ValueError, match=r"shape: must be CxHxW|were no pictures"):
        read(sick, tmp_path / "own")
    numbers = replace(trained, scaling="site")
    with pytest.raises(ValueError, match=r"the run's own records did, which were no pictures"):
        read(numbers, tmp_path / "flat", answered=False)
