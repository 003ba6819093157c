"""A table's columns as a bundle reads them, against the csv module and the run's own reading."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner

import fedlite
from fedlite.commands.main import app
from fedlite.evaluation import open_model, read
from fedlite.inference.inputs import read_inputs
from fedlite.inference.release import write_bundle
from fedlite.inference.rule import Own, rule_by

TABLE = "site,age,pressure,sex,sick\n" + "".join(
    f"h{n % 2},{'' if n % 9 == 0 else 30 + n % 50},{100 + (n * 37) % 90},{'fm'[n % 3 % 2]},"
    f"{'yes' if (n * 37) % 90 + n % 50 > 70 else 'no'}\n"
    for n in range(120)
)


def test_a_table_gives_the_columns_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    columns: list[dict[str, Any]] = [{"name": "pressure"}, {"name": "age"}]
    columns.append({"name": "sex", "values": ["f", "m"]})
    features = ["pressure", "age", "sex=f", "sex=m"]
    told = {"shape": [4], "labels": ["no", "yes"], "columns": columns, "features": features}
    told |= {"missing": ["NA"], "scaling": "site", "source": "own"}
    found = read_inputs(told, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    wanted = [
        [float(r["pressure"]), float(r["age"] or "nan"), r["sex"] == "f", r["sex"] == "m"]
        for r in rows
    ]
    np.testing.assert_array_equal(found, np.array(wanted, float))
    (tmp_path / "short.csv").write_text("sex,age\nf,30\n")
    with pytest.raises(ValueError, match="must have the column 'pressure'"):
        read_inputs(told, tmp_path / "short.csv")
    with pytest.raises(ValueError, match="no such file"):
        read_inputs(told, tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"must be a \.npz file with the array x \[n, 4\]"):
        read_inputs({"shape": [4], "labels": ["a"]}, tmp_path / "t.csv")
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"x must be numbers of shape \[n, 4\]"):
        read_inputs(told, tmp_path / "wrong.npz")


@pytest.mark.long
def test_a_table_is_read_and_scaled_as_its_run_did(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    table = {"name": "csv", "path": str(tmp_path / "t.csv"), "target": "sick"}
    table |= {"partition": "natural", "test_fraction": 0.2, "categories": "sex: f, m"}
    scenario = {
        "federation": {"name": "t", "rounds": 3, "sites": 2, "quorum": 1},
        "data": table | {"columns": "age, pressure, sex"},
        "model": {"name": "linear"},
        "training": {"learning_rate": 0.5},
        "inference": {"calibration": 0.2},
    }
    fedlite.simulate(scenario, out=tmp_path / "run", engine="serial")
    trained, place = open_model(tmp_path / "run"), tmp_path / "place.csv"
    lines = TABLE.splitlines()
    # Of one place, in another order, without the answer.
    place.write_text(
        "sex,pressure,age\n"
        + "".join(
            f"{row[3]},{row[2]},{row[1]}\n" for row in (line.split(",") for line in lines[1:61])
        )
    )
    both, copy, alone = (tmp_path / f"{name}.csv" for name in ("both", "copy", "alone"))
    both.write_text("".join(line + "\n" for line in lines[:-1]))
    copy.write_text(TABLE)
    alone.write_text("".join(line + "\n" for line in lines if not line.startswith("h1")))
    with pytest.raises(ValueError, match="--scale-by: must be given for a model whose sites"):
        write_bundle(trained, tmp_path / "none")
    write_bundle(trained, tmp_path / "made", scale_by=place)
    for file, by, rule in (
        (tmp_path / "t.csv", place, "not seen"),
        (copy, place, "not seen"),
        (both, place, "--calibrate-with: must be of one place"),
        # Of h0 the run's way to read would take the mean of h0 alone, and the bundle that of both.
        (alone, both, "--scale-by: must be of one place"),
    ):
        with pytest.raises(ValueError, match=rule):
            rule_by(trained, Own(file), by)
    assert rule_by(trained, Own(alone), alone).calibrated is not None
    bundle = fedlite.load_bundle(tmp_path / "made")
    # 20 records or so: nothing can be promised, so all go deep.
    assert bundle.threshold is None and "more would be needed" in bundle.promise
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "made"), str(place), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    wanted = softmax(trained.answers(read(trained, place, answered=False).data)["deep"], axis=1)
    np.testing.assert_allclose([row["p(yes)"] for row in rows], wanted[:, 1], atol=1e-5)
    assert {row["branch"] for row in rows} == {"deep"} and len(rows) == 60
    raw = np.array([[np.nan, 120.0, 1.0, 0.0]])
    with pytest.raises(ValueError, match="missing=True"):
        bundle.predict(raw)
    assert bundle.predict(raw, missing=True).shares.shape == (1, 2)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["inference"]["threshold"] = 0.9
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    write_bundle(trained, tmp_path / "others", scale_by=place)
    assert "they are scaled by others" in fedlite.load_bundle(tmp_path / "others").promise
