"""What answers take: stem and tail apart, and the share that leaves early between them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.inference import spent
from fedlite.inference.bundle import load


def run(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def test_a_share_that_leaves_early_takes_the_stem_and_that_share_less_of_the_tail(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a clock that says 0.2 s for each round of the stem, and 0.5 s of both.
    clock = [0.0]
    monkeypatch.setattr(spent.time, "process_time", lambda: clock[0])

    class Ready:
        def __init__(self, seconds: float, width: int) -> None:
            self.seconds, self.width = seconds, width

        def run(self, _: object, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            clock[0] += self.seconds
            return [np.zeros((len(next(iter(given.values()))), self.width))] * 2

    ready = {b"stem": Ready(0.2, 4), b"tail": Ready(0.3, 2)}
    monkeypatch.setattr(spent, "session", ready.__getitem__)
    monkeypatch.setattr(spent, "EnergyMeter", type("Meter", (), {
        "started": classmethod(lambda cls: cls()),
        "since": lambda self, took, watts: {
            "value": round(took * watts, 1), "unit": "J", "method": "modelled",
            "watts_per_core": watts,
        },
    }))  # fmt: skip
    x = np.zeros((100, 3), np.float32)
    found = spent.spent(b"stem", b"tail", x, 0.25, watts=20.0, grid=360.0)
    # 0.5 s at 20 W for 100 inputs are 100 J for 1,000; of the tail a quarter is saved.
    assert found["deep"]["value"] == pytest.approx(100.0)
    assert found["adaptive"]["value"] == pytest.approx(40.0 + 0.75 * 60.0)
    assert found["deep"]["kgco2"] == pytest.approx(100.0 / 3.6e6 * 0.36, rel=1e-3)
    assert found["method"] == "modelled" and found["watts_per_core"] == 20.0
    assert "adaptive" not in spent.spent(b"stem", b"tail", x, None)


@pytest.mark.long
def test_a_card_and_an_answer_say_what_they_take(
    run_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(
        spent.spent, "__kwdefaults__", {"watts": 10.0, "grid": 0.0, "seconds": 0.05}
    )
    out = tmp_path / "bundle"
    run("export", run_, "--to", out, "--energy", "--watts", 15, "--grid", 400)
    told = load(out).told["energy"]
    assert 0 < told["adaptive"]["value"] < told["deep"]["value"] and told["inputs"] == 1000
    assert told["deep"]["kgco2"] == pytest.approx(told["deep"]["value"] / 3.6e6 * 0.4, rel=1e-3)
    assert "| energy | " in (out / "README.md").read_text()
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 1, 8, 8), np.float32))
    found = json.loads(run("predict", out, tmp_path / "x.npz", "--json", "--energy", "--grid", 400))
    energy = found["energy"]
    assert energy["method"] in ("modelled", "measured") and energy["grid_g_per_kwh"] == 400.0
    assert any("5 answers took" in note for note in found["notes"])
    plain = json.loads(run("predict", out, tmp_path / "x.npz", "--json"))
    assert "energy" not in plain
    for option, value in (("--grid", "4"), ("--watts", "4"), ("--watts", "10")):
        asked = ["predict", str(out), str(tmp_path / "x.npz"), option, value]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 2 and f"{option}: must be left out" in result.output


@pytest.fixture
def run_(request: pytest.FixtureRequest) -> Path:
    """Return the run of the other tests, whose name the helper above has."""
    found: Path = request.getfixturevalue("run")
    return found
