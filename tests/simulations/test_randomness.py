"""Public randomness comes from the seed, the round and the sender; names only identify."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlite.scenario import from_dict
from simulations.run import simulate


def trained(folder: Path, **changes: dict[str, object]) -> bytes:
    """Return the model of three rounds with a compressor whose rotations are drawn."""
    tables: dict[str, dict[str, object]] = {
        "federation": {"rounds": 3, "sites": 3, "seed": 4},
        "uplink": {"compressor": "rotated-topk", "density": 0.05},
        "training": {"learning_rate": 0.5},
    }
    for section, values in changes.items():
        tables[section] = tables.get(section, {}) | values
    simulate(from_dict(tables), folder, engine="serial", quiet=True)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.long
def test_what_only_names_a_run_does_not_change_its_model(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", federation={"name": "one"})
    renamed = {"name": "another", "evaluate_every": 2}
    assert trained(tmp_path / "second", federation=renamed) == first
    assert trained(tmp_path / "third", federation={"seed": 5}) != first


@pytest.mark.long
@pytest.mark.parametrize("compressor", ["eden", "randk"])
def test_a_moved_table_gives_the_same_model(tmp_path: Path, compressor: str) -> None:
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        table = tmp_path / folder / f"{folder}.csv"
        rows = [f"{i % 7},{i % 5},{'yes' if i % 7 > i % 5 else 'no'}" for i in range(60)]
        table.write_text("\n".join(["a,b,label", *rows]) + "\n")
        data = {"name": "csv", "path": str(table), "target": "label"}
        link = {"compressor": compressor, "density": 0.5}
        found.append(trained(tmp_path / folder / "run", data=data, uplink=link))
    assert found[0] == found[1]
