from __future__ import annotations

from pathlib import Path

import numpy as np

from fedlite.data import load
from fedlite.data.overview import idle, look_alikes, overview
from fedlite.data.partition import site_data


def test_the_figures_are_those_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["ill", "well"], 60, p=[0.3, 0.7])
    rows = [f"h{n % 3},{n},{'' if n % 4 == 0 else n * n},{label}" for n, label in enumerate(labels)]
    path = tmp_path / "t.csv"
    path.write_text("site,a,b,label\n" + "\n".join(rows) + "\n")
    source = load("csv", path=str(path), target="label")
    sites = site_data(source, kind="natural", sites=3, alpha=1.0, seed=1)
    found = overview(source, sites)
    assert (found["records"], found["test_records"], found["shape"]) == (60, 0, [2])
    assert found["missing"] == 15 / 120
    assert found["classes"] == {name: int((labels == name).sum()) for name in ("ill", "well")}
    assert list(found["sites"]) == ["h0", "h1", "h2"]
    assert all(train + held == 20 and held for train, held in found["sites"].values())
    assert found["warnings"] == []


def test_a_column_is_idle_by_what_is_trained_on_alone(tmp_path: Path) -> None:
    """By the records of each place, one by one: what is held out cannot be learnt from."""
    path = tmp_path / "t.csv"
    names = [f"c{n}" for n in range(60)]
    # Column n has its one other value, or its one value at all, in row n.
    rows = [
        ",".join("1" if n == at else "" if n % 2 else "0" for n in range(60)) for at in range(60)
    ]
    lines = [f"{row},{('no', 'yes')[at // 2 % 2]}" for at, row in enumerate(rows)]
    path.write_text("\n".join([",".join([*names, "label"]), *lines]) + "\n")
    source = load("csv", path=str(path), target="label")
    sites = site_data(source, kind="iid", sites=3, alpha=1.0, seed=1)
    held = sorted({*range(60)} - {int(at) for train, _, _ in sites.places for at in train})
    odd, even = [at for at in held if at % 2], [at for at in held if not at % 2]
    constant = [f"c{at}" for at in range(60) if (at % 2 and at not in held) or at in even]
    told = idle(source, sites)
    empty, rest = told.split("; of one value ")
    assert odd and even and empty.startswith("empty in all")
    assert [name.strip("'") for name in empty.partition(": ")[2].split(", ")] == [
        f"c{n}" for n in odd
    ]
    assert rest.count("'c") == 10 and f"and {len(constant) - 10} more; no model" in rest
    assert all(repr(name) in rest for name in constant[:10])


def test_labels_that_differ_in_case_only_are_named() -> None:
    assert look_alikes(["NO", "No", "YES", "Yes", "maybe", "yes"]) == [
        "The labels 'NO' and 'No' differ in case only and are 2 classes.",
        "The labels 'YES', 'Yes' and 'yes' differ in case only and are 3 classes.",
    ]
    assert look_alikes(["a", "b", "0", "00", "STRASSE!"]) == []
