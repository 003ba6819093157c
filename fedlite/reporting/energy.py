"""Energy of a run: measured where the processor counts it, otherwise modelled and named so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A server core under load draws 5 to 15 W; a model with one constant cannot say more than that.
WATTS_PER_CORE = 10.0
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_RAPL_RANGE = _RAPL.with_name("max_energy_range_uj")


@dataclass(frozen=True)
class EnergyMeter:
    """Reading at the start of a run, in microjoules; None where there is no counter."""

    start: int | None

    @classmethod
    def started(cls) -> EnergyMeter:
        """Read the counter now."""
        return cls(_read())

    def since(self, cpu_seconds: float) -> dict[str, Any]:
        """Return joules since the start: `method` says whether they were measured or modelled."""
        now = _read()
        if self.start is None or now is None:
            return {
                "value": round(cpu_seconds * WATTS_PER_CORE, 1),
                "unit": "J",
                "method": "modelled",
                "watts_per_core": WATTS_PER_CORE,
            }
        spent = now - self.start
        if spent < 0:  # the counter wraps
            spent += int(_RAPL_RANGE.read_text())
        return {"value": round(spent / 1e6, 1), "unit": "J", "method": "measured"}


def _read() -> int | None:
    try:
        return int(_RAPL.read_text())
    except (OSError, ValueError):
        return None
