"""Energy is measured where a processor counts it, even across a wrap, and otherwise modelled."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedlite.reporting import energy
from fedlite.reporting.energy import EnergyMeter


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a counter of microjoules as Linux shows one, which wraps at 10 J."""
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "psys"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    # What is in a package counts once, as a part of it.
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("7\n")
    return tmp_path / "intel-rapl:0" / "energy_uj"


@pytest.mark.parametrize(("start", "end", "joules"), [(1e6, 4.5e6, 3.5), (9e6, 2e6, 3.0)])
def test_a_counter_is_read_before_and_after(
    counter: Path, start: float, end: float, joules: float
) -> None:
    counter.write_text(f"{start:.0f}\n")
    meter = EnergyMeter.started()
    counter.write_text(f"{end:.0f}\n")
    assert meter.since(99.0) == {"value": joules, "unit": "J", "method": "measured"}


def test_all_packages_count(counter: Path) -> None:
    other = counter.parents[1] / "intel-rapl:1" / "energy_uj"
    counter.write_text("1000000\n")
    other.write_text("2000000\n")
    meter = EnergyMeter.started()
    counter.write_text("2000000\n")
    other.write_text("2500000\n")
    assert meter.since(0.0)["value"] == 1.5
    # One that is read no more makes a sum of others no measurement.
    other.unlink()
    assert meter.since(3.0, watts=5.0) == {
        "value": 15.0, "unit": "J", "method": "modelled", "watts_per_core": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [(None, "5\n"), ("5\n", None), ("no number", "5\n")])
def test_without_a_counter_seconds_of_a_core_are_counted_and_said_to_be(
    counter: Path, before: str | None, after: str | None
) -> None:
    if before:
        counter.write_text(before)
    meter = EnergyMeter.started()
    counter.unlink(missing_ok=True)
    if after:
        counter.write_text(after)
    found = meter.since(2.0)
    assert found["method"] == "modelled" and found["unit"] == "J"
    assert found["value"] == 2.0 * found["watts_per_core"]


def test_co2_follows_from_the_grid_and_is_told_with_it(counter: Path) -> None:
    # 360 kJ are a tenth of a kWh.
    found = EnergyMeter.started().since(36_000.0, grid=350.0)
    assert found["kgco2"] == pytest.approx(0.1 * 0.35) and found["grid_g_per_kwh"] == 350.0
    assert "kgco2" not in EnergyMeter.started().since(36_000.0)
    assert energy.told(found).endswith("35 g CO2 at 350 g/kWh")


class _Gpus:
    """NVML with two GPUs."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, *millijoules: int) -> None:
        self.now = list(millijoules)

    def module(self) -> Any:
        def read(at: int) -> int:
            if self.now[at] < 0:
                raise self.NVMLError
            return self.now[at]

        return SimpleNamespace(
            NVMLError=self.NVMLError,
            nvmlInit=lambda: None,
            nvmlDeviceGetCount=lambda: len(self.now),
            nvmlDeviceGetHandleByIndex=lambda at: at,
            nvmlDeviceGetTotalEnergyConsumption=read,
        )


def test_a_gpu_s_counter_is_added_and_the_record_says_what_is_modelled(
    counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = _Gpus(1000, 5000)
    monkeypatch.setitem(sys.modules, "pynvml", gpus.module())
    alone = EnergyMeter.started(gpu=True)
    counter.write_text("0\n")
    both = EnergyMeter.started(gpu=True)
    gpus.now = [3000, 5500]
    counter.write_text("1000000\n")
    assert both.since(9.0) == {"value": 3.5, "unit": "J", "method": "measured"}
    mixed = alone.since(1.0)
    assert (mixed["value"], mixed["method"], mixed["watts_per_core"]) == (12.5, "mixed", 10.0)
    # Whoever does not compute on a GPU is not charged for what others do there.
    assert EnergyMeter.started().since(1.0)["value"] == 0.0
    gpus.now = [-1, -1]
    assert both.since(9.0) | {"value": 0} == {
        "value": 0, "unit": "J", "method": "measured", "not_counted": "gpu",
    }  # fmt: skip
