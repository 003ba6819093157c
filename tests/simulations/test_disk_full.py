"""A disk that fills up leaves the last checkpoint usable."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from server import checkpoint
from simulations import run
from simulations.run import simulate
from tests.simulations.running import Outcome, Plan


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount 2 MB of memory as a file system, or skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "fedlite-test", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_usable(
    plan: Plan,
    tmp_path: Path,
    tiny_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(plan(federation={"rounds": 4}).to_toml())
    simulate(plan(federation={"rounds": 4}), tmp_path / "whole", engine="serial", quiet=True)
    arguments = ["simulate", str(file), "--engine", "serial", "--json"]
    directory = tiny_disk / "run"
    result = CliRunner().invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 1 and "needs 200 MB of free disk" in result.output
    assert not directory.exists()

    monkeypatch.setattr(run, "_FREE_BYTES", 0)
    filler, save, saved = tiny_disk / "filler", checkpoint.save, iter(range(1, 99))

    def fill(folder: Path, point: Any) -> None:
        save(folder, point)
        if next(saved) == 2:
            with filler.open("wb", buffering=0) as rest:
                try:
                    while rest.write(bytes(4096)):
                        pass
                except OSError:
                    return

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fill)
        result = CliRunner().invoke(app, [*arguments, "--out", str(directory)])
    assert result.exit_code == 1
    assert "no space left on device; make room" in result.output
    # A site's traceback used to stand before it, in the terminal of the one disk of both.
    assert result.output.count("fedlite: ") == 1 and "Traceback" not in result.output
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    point = checkpoint.load(directory / "checkpoint")
    assert point is not None and point.round == 2
    filler.unlink()
    result = CliRunner().invoke(
        app, ["simulate", "--resume", str(directory), "--engine", "serial", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert outcome(directory) == outcome(tmp_path / "whole")
    debris = [p.name for p in directory.rglob("*.part")]
    assert debris == []
