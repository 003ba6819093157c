"""The codec benchmark: its formats give back what they got, and its rows say what they measured."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from simulations.benchmarks import codec, formats


@pytest.mark.parametrize("density", [0.001, 0.02, 0.3, 1.0])
def test_every_format_gives_back_what_it_was_given(density: float) -> None:
    n = 5000
    rng = np.random.default_rng(1)
    indices = np.sort(rng.choice(n, math.ceil(n * density), replace=False)).astype(np.int32)
    values = rng.normal(size=indices.size).astype(np.float32)
    found, missing = formats.installed()
    assert len(found) + 2 * missing.count("zstandard") + missing.count("constriction") == 7
    for form in found:
        data = form.encode(indices, values, n)
        where, what = form.decode(data, n, indices.size)
        np.testing.assert_array_equal(where, indices)
        if form.name.startswith("COO"):
            np.testing.assert_array_equal(what, values)
        else:
            np.testing.assert_array_equal(what, values < 0)


def test_the_entropy_is_that_of_the_sets_and_signs() -> None:
    for n, k in ((10, 3), (1000, 10), (5000, 1234)):
        exact = math.log2(math.comb(n, k)) + k
        assert codec.entropy_bits(n, k) == pytest.approx(exact, rel=1e-9)


def test_a_run_measures_and_prints_every_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    command = "codec --sizes 2e4 --densities 0.01 0.1 --repeats 1 --json".split()
    monkeypatch.setattr(sys, "argv", [*command, str(path)])
    codec.main()
    rows = json.loads(path.read_text())
    printed = capsys.readouterr().out
    names = ["topk, sign", *(form.name for form in formats.installed()[0])]
    assert [row["what"] for row in rows] == names * 2
    for row in rows:
        assert set(row) == {"what", "parameters", "units", "figures"}
        assert row["parameters"]["size"] == 20_000
        assert set(row["units"]) == set(row["figures"])
        assert all(np.isfinite(value) and value > 0 for value in row["figures"].values())
        assert printed.count(f"| {row['what']} |") == 2 * (row["what"] in names)
    own = rows[0]["figures"]
    coo = next(row for row in rows if row["what"] == "COO int32 + fp32")["figures"]
    assert coo["bytes"] == 8 * 200
    assert own["bytes"] < 0.3 * coo["bytes"]
    assert own["percent_of_dense"] == pytest.approx(100 * own["bytes"] / 80_000)


def test_a_format_that_loses_something_is_noticed() -> None:
    wrong = formats.Format("wrong", lambda i, v, n: b"", lambda d, n, k: (np.arange(k), np.ones(k)))
    vector = codec.laplace(100)
    with pytest.raises(RuntimeError, match="wrong must give back"):
        codec.rivals([wrong], vector, np.array([3, 5]), 1)
