"""Energy of a run or an inference: measured where a counter can be read, else modelled; CO2 of it.

A processor's counter (Intel's and AMD's RAPL, by Linux's powercap) and a GPU's (NVML) count all
that the machine draws meanwhile, whoever causes it. Modelled is what the processor time of this
process alone comes to, at so many watts a busy core. Each record says which of the two it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A server core under load draws 5 to 15 W; a model with one constant cannot say more than that.
WATTS_PER_CORE = 10.0
_POWERCAP = Path("/sys/class/powercap")
# A package: what is in it (cores, memory's controller) has zones of its own below.
_PACKAGE = re.compile(r"intel-rapl:\d+")
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class EnergyMeter:
    """Readings at the start: microjoules by counter. gpu: whether GPUs are counted, too."""

    packages: Mapping[str, int] = field(default_factory=dict)
    gpus: Mapping[str, int] = field(default_factory=dict)
    gpu: bool = False

    @classmethod
    def started(cls, *, gpu: bool = False) -> EnergyMeter:
        """Read the counters now."""
        return cls(_packages(), _gpus() if gpu else {}, gpu)

    def since(
        self, cpu_seconds: float, watts: float = WATTS_PER_CORE, grid: float = 0.0
    ) -> dict[str, Any]:
        """Return joules since the start, and how they are known, ready for JSON.

        cpu_seconds: of this work, for what is modelled at `watts` a busy core. grid: grams of CO2
        for a kWh where the machine stands; with 0 no CO2 is told. `method` is measured, modelled,
        or mixed: a GPU's counter and a modelled processor. What has no counter and no model, a GPU
        without NVML, is named under `not_counted`.
        """
        found: dict[str, Any] = {}
        joules = _spent(self.packages, _packages(), wraps=True)
        measured = joules is not None
        joules = cpu_seconds * watts if joules is None else joules
        method = "measured" if measured else "modelled"
        if self.gpu:
            more = _spent(self.gpus, _gpus(), wraps=False)
            if more is None:
                found["not_counted"] = "gpu"
            else:
                joules += more
                method = "measured" if measured else "mixed"
        found |= {"value": round(joules, 1), "unit": "J", "method": method}
        if not measured:
            found["watts_per_core"] = watts
        return found | carbon(joules, grid)


def carbon(joules: float, grid: float) -> dict[str, float]:
    """Return the kilograms of CO2 of so many joules at `grid` g/kWh; nothing where that is 0.

    >>> carbon(3.6e6, 400.0)
    {'grid_g_per_kwh': 400.0, 'kgco2': 0.4}
    """
    if not grid:
        return {}
    kilograms = joules / _JOULES_PER_KWH * grid / 1000
    return {"grid_g_per_kwh": grid, "kgco2": float(f"{kilograms:.4g}")}


def readable(value: float, unit: str) -> str:
    """Return a figure in three digits, its unit between micro and kilo.

    >>> readable(0.0000123, "g"), readable(0.9996, "g"), readable(41.25, "J"), readable(3.6e6, "J")
    ('12.3 µg', '1 g', '41.2 J', '3,600 kJ')
    """
    value = float(f"{value:.3g}")
    places = ((1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
    size, prefix = next((p for p in places if value >= p[0]), places[-1] if value else places[1])
    return f"{value / size:,.10g} {prefix}{unit}"


def told(energy: Mapping[str, Any]) -> str:
    """Return a record of energy in a line, for people.

    >>> told({"value": 41.25, "unit": "J", "method": "modelled", "watts_per_core": 10.0})
    '41.2 J, modelled (10 W for each busy core)'
    """
    size = readable(energy["value"], energy.get("unit", "J"))
    text = f"{size}, {energy.get('method', 'modelled')}"
    if energy.get("watts_per_core"):
        text += f" ({energy['watts_per_core']:g} W for each busy core)"
    if "kgco2" in energy:
        text += (
            f"; {readable(1000 * energy['kgco2'], 'g')} CO2 at {energy['grid_g_per_kwh']:g} g/kWh"
        )
    if "not_counted" in energy:
        text += f"; without the {energy['not_counted']}"
    return text


def _spent(before: Mapping[str, int], after: Mapping[str, int], *, wraps: bool) -> float | None:
    """Return the joules between two readings; None where a counter is in one of them only."""
    if not before or before.keys() != after.keys():
        return None
    total = 0
    for name, start in before.items():
        spent = after[name] - start
        if spent < 0:
            if not wraps or (most := _number(_POWERCAP / name / "max_energy_range_uj")) is None:
                return None
            spent += most
        total += spent
    return total / 1e6


def _packages() -> dict[str, int]:
    found = {}
    for path in sorted(_POWERCAP.glob("intel-rapl:*")):
        value = _number(path / "energy_uj") if _PACKAGE.fullmatch(path.name) else None
        if value is not None:
            found[path.name] = value
    return found


def _gpus() -> dict[str, int]:
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        count = range(pynvml.nvmlDeviceGetCount())
        handles = {str(at): pynvml.nvmlDeviceGetHandleByIndex(at) for at in count}
        # In millijoules since the driver was loaded; a GPU older than Volta has none.
        read = pynvml.nvmlDeviceGetTotalEnergyConsumption
        return {name: 1000 * read(handle) for name, handle in handles.items()}
    except pynvml.NVMLError:
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
