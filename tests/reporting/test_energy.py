"""Energy is measured where a processor counts it, even across a wrap, and otherwise modelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlite.reporting import energy


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a counter of microjoules as Linux shows one, which wraps at 10 J."""
    path = tmp_path / "energy_uj"
    (tmp_path / "max_energy_range_uj").write_text("10000000\n")
    monkeypatch.setattr(energy, "_RAPL", path)
    monkeypatch.setattr(energy, "_RAPL_RANGE", tmp_path / "max_energy_range_uj")
    return path


@pytest.mark.parametrize(("start", "end", "joules"), [(1e6, 4.5e6, 3.5), (9e6, 2e6, 3.0)])
def test_a_counter_is_read_before_and_after(
    counter: Path, start: float, end: float, joules: float
) -> None:
    counter.write_text(f"{start:.0f}\n")
    meter = energy.EnergyMeter.started()
    counter.write_text(f"{end:.0f}\n")
    assert meter.since(99.0) == {"value": joules, "unit": "J", "method": "measured"}


@pytest.mark.parametrize(("before", "after"), [(None, "5\n"), ("5\n", None), ("no number", "5\n")])
def test_without_a_counter_seconds_of_a_core_are_counted_and_said_to_be(
    counter: Path, before: str | None, after: str | None
) -> None:
    if before:
        counter.write_text(before)
    meter = energy.EnergyMeter.started()
    counter.unlink(missing_ok=True)
    if after:
        counter.write_text(after)
    found = meter.since(2.0)
    assert found["method"] == "modelled" and found["unit"] == "J"
    assert found["value"] == 2.0 * found["watts_per_core"]
