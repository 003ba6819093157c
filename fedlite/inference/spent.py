"""What energy a bundle's answers take on the machine that writes it, stem and tail apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.inference.bundle import session
from fedlite.inference.portions import portions
from fedlite.reporting.energy import WATTS_PER_CORE, EnergyMeter, carbon, readable

INPUTS = 1000
# Processor seconds for which each way is repeated.
_SECONDS = 1.0


def spent(
    stem: bytes,
    tail: bytes,
    inputs: NDArray[Any],
    early: float | None,
    *,
    watts: float = WATTS_PER_CORE,
    grid: float = 0.0,
    seconds: float = _SECONDS,
) -> dict[str, Any]:
    """Return joules for 1,000 inputs, all deep and adaptive, and how they are known.

    inputs: as the graphs read them. early: the share that leaves early; None: not known, and then
    only all deep is told. An early answer is the stem's energy, a deep one the tail's as well; what
    the bundle itself does between them is not in it. watts, grid: as `EnergyMeter.since` has it.
    """
    first, rest = session(stem), session(tail)
    parts = [part for _, part in portions(inputs)]

    def shallow() -> None:
        for part in parts:
            first.run(None, {"x": part})

    def deep() -> None:
        for part in parts:
            rest.run(None, {"hidden": first.run(None, {"x": part})[0]})

    ways = {"stem": shallow, "deep": deep}
    found = {name: _repeated(way, len(inputs), watts, seconds) for name, way in ways.items()}
    each = {name: one.pop("each") for name, one in found.items()}
    known = {k: v for k, v in found["deep"].items() if k not in ("value", "unit")}
    joules = {"deep": each["deep"]}
    if early is not None:
        tail_alone = max(0.0, each["deep"] - each["stem"])
        joules["adaptive"] = each["stem"] + (1 - early) * tail_alone
    told: dict[str, Any] = {"inputs": INPUTS, "unit": "J", **known}
    for name, one in joules.items():
        told[name] = {"value": float(f"{INPUTS * one:.4g}"), **carbon(INPUTS * one, grid)}
    return told


def _repeated(way: Callable[[], None], inputs: int, watts: float, seconds: float) -> dict[str, Any]:
    """Return what repeating a way came to, and under `each` the joules of an input."""
    way()
    meter, started, times = EnergyMeter.started(), time.process_time(), 0
    while not times or time.process_time() - started < seconds:
        way()
        times += 1
    took = time.process_time() - started
    found = meter.since(took, watts)
    # The record is rounded for people; of what is modelled the exact figure is known.
    joules = found["value"] if found["method"] == "measured" else took * watts
    return found | {"each": float(np.divide(joules, times * inputs))}


def row(told: Mapping[str, Any]) -> tuple[str, str]:
    """Return a row of the model card."""
    names = [name for name in ("deep", "adaptive") if name in told]
    ways = [f"{readable(told[name]['value'], 'J')} {name}" for name in names]
    how = told["method"]
    if "watts_per_core" in told:
        how += f" at {told['watts_per_core']:g} W for each busy core"
    text = f"{', '.join(ways)}, for {told['inputs']:,} inputs; {how}"
    if "kgco2" in told["deep"]:
        grams = [f"{readable(1000 * told[name]['kgco2'], 'g')} {name}" for name in names]
        text += f"; CO2 {', '.join(grams)} at {told['deep']['grid_g_per_kwh']:g} g/kWh"
    return "energy", text
