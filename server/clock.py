"""Virtual time: how long what a simulation does would take on other devices, by counting.

A site's part of a round lasts as long as its bytes take on its lines, twice the latency, and its
training's multiply-adds at its speed; a step of training is taken for three passes forward. What it
takes to start a device, to compress, and to add updates up is not counted, and no line is shared.

All of it follows from the seed, from bytes and from numbers of records, so any engine comes to the
same times. Where records are private no number of theirs is counted, but what settings and the
catalogue say: who is late decides whom a round uses, and times are published, so neither may tell
how many records there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedlite import depth
from fedlite.data import SiteData, find
from fedlite.data.shares import sizes
from fedlite.messages import site_id
from fedlite.plan import Plan
from fedlite.scenario import Scenario, ScenarioError
from fedlite.scenario.network_rules import unknown

_DAY = 86_400.0
# Keep draws of devices and of who drops out apart from every other use of the same seed.
_DEVICE, _DROPOUT = 20_241, 20_242
# A step forward and backward, in passes forward.
_PASSES = 3.0


@dataclass(frozen=True)
class Device:
    """One site's: bytes a second up and down, seconds one way, multiply-adds a second.

    wakes: second of the day from which it can be asked.
    """

    up: float
    down: float
    latency: float
    speed: float
    wakes: float


class Clock:
    """Virtual time of a run.

    records(name) returns how many records a site trains on; never called where they are private.
    """

    def __init__(self, plan: Plan, records: Callable[[str], float]) -> None:
        """Take the plan; the devices are drawn when they are first asked for.

        Raises ScenarioError where records are private and nothing public says how many there are.
        """
        self._plan, self._network = plan, plan.scenario.network
        self._seed = plan.scenario.federation.seed
        self._records = records
        if plan.scenario.private:
            public = taken(plan.scenario)
            self._records = lambda name: public
        self._macs = {
            one: sum(part["macs"] for part in one.model().costs().values())
            for one in depth.kinds(plan)
        }
        self.deadline = plan.scenario.federation.deadline_seconds
        # Of millions of sites the devices are drawn again rather than kept.
        self.device = lru_cache(maxsize=65_536)(self._device)

    @classmethod
    def of(cls, plan: Plan, sites: Sequence[SiteData]) -> Clock:
        """Return the clock of a simulation, whose sites hold these records."""
        return cls(plan, sizes(sites).__getitem__)

    @property
    def needed(self) -> int:
        """How many answers end a round."""
        return self._plan.scenario.federation.participants

    @property
    def wanted(self) -> int:
        """How many sites are asked for them."""
        return math.ceil(self.needed * (1.0 + self._network.over_selection) - 1e-9)

    def _device(self, name: str) -> Device:
        line, spread = self._network.line, self._network.spread
        rng = np.random.default_rng([_DEVICE, self._seed, site_id(name)])
        up, down, speed = np.exp(spread * rng.standard_normal(3))
        return Device(
            up=125.0 * line.up_kbps * up,
            down=125.0 * line.down_kbps * down,
            latency=line.latency_ms / 1e3,
            speed=1e6 * line.speed * speed,
            wakes=_DAY * rng.random(),
        )

    def drops_out(self, name: str, number: int) -> bool:
        """Return whether a site that is asked in round `number` never answers."""
        if not self._network.dropout:
            return False
        rng = np.random.default_rng([_DROPOUT, self._seed, number, site_id(name)])
        return bool(rng.random() < self._network.dropout)

    def work(self, name: str) -> float:
        """Return the multiply-adds of a site's training in one round."""
        scenario, plan = self._plan.scenario, depth.plan_of(self._plan, name)
        training, privacy = scenario.training, scenario.privacy
        if privacy.unit == "record":
            seen = training.steps * float(privacy.expected_batch)
        elif training.steps:
            batch = float(training.batch_size)
            if not scenario.private:
                batch = min(batch, self._records(name))
            seen = training.steps * batch
        else:
            seen = training.epochs * self._records(name)
        return _PASSES * self._macs[plan] * seen

    def seconds(self, name: str, *, down: int, up: int = 0) -> float:
        """Return how long a site's part takes, from its bytes both ways."""
        device = self.device(name)
        lines = down / device.down + self.sending(name, up) + 2.0 * device.latency
        return float(lines + self.work(name) / device.speed)

    def sending(self, name: str, up: int) -> float:
        """Return how long `up` bytes of a site are on the line, without its latency."""
        return up / self.device(name).up

    def awake(self, name: str, now: float) -> bool:
        """Return whether a site can be asked at `now`, in seconds since the run began."""
        hours = self._network.hours
        return hours == 24.0 or (now - self.device(name).wakes) % _DAY < 3_600.0 * hours

    def when(self, names: Sequence[str], least: int, now: float) -> float:
        """Return the first time from `now` on at which `least` of the sites can be asked.

        Raises ValueError where there is none.
        """
        if self._network.hours == 24.0:
            return now
        wakes, hours = np.sort([self.device(name).wakes for name in names]), self._network.hours
        around = np.concatenate([wakes - _DAY, wakes])

        def there(times: NDArray[np.float64]) -> NDArray[np.intp]:
            began = around.searchsorted(times, "right")
            return began - around.searchsorted(times - 3_600.0 * hours, "right")

        today = now % _DAY
        if there(np.array([today]))[0] >= least:
            return now
        # Somebody more can only be there once another wakes.
        moments = wakes + 1e-6
        enough = moments[there(moments) >= least]
        if enough.size:
            return now + float(((enough - today) % _DAY).min())
        raise ValueError(
            f"network.hours: must let {least} sites be asked at once (federation.quorum), got "
            f"{hours:g}, with which there are never so many; raise it"
        )

    def draw(
        self, names: Sequence[str], wanted: int, rng: np.random.Generator, now: float
    ) -> list[str]:
        """Return up to `wanted` of the sites that can be asked at `now`, in the order of names."""
        if self._network.hours == 24.0:
            return drawn(names, wanted, rng)
        found: list[str] = []
        for at in rng.permutation(len(names)):
            if len(found) == wanted:
                break
            if self.awake(names[at], now):
                found.append(names[at])
        return sorted(found)

    def lasted(self, times: Mapping[str, float], *, all_in: bool) -> tuple[float, list[str]]:
        """Return how long a round lasted, and which of those that answered came too late to count.

        times: seconds until each usable answer, none after the deadline. all_in: whether nobody
        else is waited for. The round ends with the last answer that is needed, or with the last of
        all; else at the deadline.
        """
        order = sorted((seconds, name) for name, seconds in times.items())
        if len(order) >= self.needed:
            return order[self.needed - 1][0], [name for _, name in order[self.needed :]]
        return order[-1][0] if order and all_in else self.deadline, []


def taken(scenario: Scenario) -> float:
    """Return how many records a site of a private run is taken to train on: public numbers alone.

    `network.records`, or of a source of the catalogue its size, less what is held out, by the
    sites. Raises ScenarioError where neither is known and a round trains on all records.
    """
    network, training, data = scenario.network, scenario.training, scenario.data
    if network.records or training.steps:
        return float(network.records)
    size = 0 if data.own else find(data.name).records
    if not size:
        raise ScenarioError(unknown(data.name))
    return size * (1.0 - data.test_fraction) / scenario.federation.sites


def drawn(names: Sequence[str], wanted: int, rng: np.random.Generator) -> list[str]:
    """Return `wanted` of the names, or all if they are fewer, in their order."""
    places = rng.choice(len(names), min(wanted, len(names)), replace=False)
    return [names[at] for at in sorted(places)]
