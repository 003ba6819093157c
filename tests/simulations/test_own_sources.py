"""Whole runs on records of one's own: what they are read from is invisible in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedlite import api
from fedlite.data import load
from tests.data.sources.test_same_table import write

ROUNDS = {
    "federation": {"rounds": 2, "sites": 3, "seed": 1},
    "model": {"name": "mlp"},
    "training": {"learning_rate": 0.2},
}


def model(folder: Path, data: dict[str, Any], **more: Any) -> bytes:
    tables = {**ROUNDS, **more, "data": data}
    return (
        api.simulate(tables, out=folder, engine="serial").directory / "model.safetensors"
    ).read_bytes()


def digits() -> tuple[Any, Any]:
    source = load("digits")
    assert source.test is not None
    return source.train, source.test


@pytest.mark.long
def test_digits_in_an_npz_are_the_digits_bit_for_bit(tmp_path: Path) -> None:
    train, test = digits()
    path = tmp_path / "own.npz"
    np.savez(path, x=train.x, y=train.y, test_x=test.x, test_y=test.y)
    skew = {"partition": "dirichlet", "alpha": 0.5}
    own = {"name": "npz", "path": str(path), "shape": "1x8x8", "scaling": "none"}
    assert model(tmp_path / "a", {"name": "digits"} | skew) == model(tmp_path / "b", own | skew)


@pytest.mark.long
def test_a_table_trains_the_same_model_whatever_it_is_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 90
    age = rng.integers(20, 80, n)
    columns: dict[str, list[Any]] = {
        "age": age.tolist(),
        "sex": [("f", "m")[v] for v in rng.integers(0, 2, n)],
        "site": [("north", "south", "west")[k % 3] for k in range(n)],
        "sick": [("no", "yes")[int(v)] for v in age + rng.normal(0, 9, n) > 50],
    }
    found = {
        kind: model(
            tmp_path / f"run-{kind}",
            {
                "name": kind,
                "path": write(tmp_path, kind, columns),
                "target": "sick",
                "partition": "natural",
            },
        )
        for kind in ("csv", "parquet", "jsonl", "hf")
    }
    assert len(set(found.values())) == 1


@pytest.mark.long
@pytest.mark.parametrize("partition", ["shards", "quantity", "natural"])
def test_private_and_plain_runs_on_pictures(tmp_path: Path, partition: str) -> None:
    train, _ = digits()
    for number, (x, y) in enumerate(zip(train.x[:240], train.y[:240], strict=True)):
        folder = tmp_path / "own" / f"ward-{number % 3}" / f"digit {y}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((x[0] * 255).astype(np.uint8)).save(folder / f"{number}.png")
    data = {"name": "images", "path": str(tmp_path / "own"), "partition": partition}
    run = api.simulate({**ROUNDS, "data": data}, out=tmp_path / "run", engine="serial")
    assert run.summary["accuracy"]["by_site"]
    if partition == "shards":
        return
    data |= {"shape": "1x8x8", "labels": ", ".join(f"digit {n}" for n in range(10))}
    private = {"unit": "record", "expected_batch": 16, "sampling_rate": 0.2}
    tables = {**ROUNDS, "data": data, "privacy": private, "training": {"steps": 1}}
    run = api.simulate(tables, out=tmp_path / "private", engine="serial")
    assert run.audit().clean and run.summary["privacy"]["unit"] == "record"
    assert str(tmp_path / "own") not in (tmp_path / "private" / "summary.json").read_text()
