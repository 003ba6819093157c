"""The keys of `[network]`: the devices and lines that a simulation plays, in virtual time.

Nothing waits: how long a round would have taken is computed from what was sent and trained. The
profiles are round figures of a kind of network, not measurements of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlite.settings import at_least, below_one, between, choice, setting

OWN = "own"


@dataclass(frozen=True)
class Line:
    """A usual site: kilobits a second up and down, milliseconds one way, and its speed.

    speed: millions of multiply-adds a second, in training.
    """

    up_kbps: float
    down_kbps: float
    latency_ms: float
    speed: float


PROFILES = {
    # A desktop on a symmetric line.
    "fibre": Line(100_000.0, 100_000.0, 10.0, 2_000.0),
    # A phone in a cell that it shares.
    "4g": Line(8_000.0, 25_000.0, 50.0, 1_000.0),
    # A microcontroller at spreading factor 7 of 125 kHz, no duty cycle kept.
    "lora": Line(5.47, 5.47, 1_000.0, 10.0),
}


@dataclass(frozen=True)
class Network:
    """How long rounds would take on other devices; few keys here change a model.

    `profile` names usual sites, "own" takes the four numbers, each of which replaces the profile's
    where it is above 0. `spread` > 0 multiplies each site's lines and speed by factors of its own,
    exp(spread x N(0, 1)), drawn from the seed. `dropout` is the probability that a site that was
    asked never answers. `hours` of a day a site can be asked, from an hour of its own on.
    `target` is the accuracy, of the deep branch, to which the minutes are told. `over_selection` is
    the share of sites asked beyond those needed, of which the first to answer are used. `buffer` K
    > 0: no rounds, but a step of the server for every K updates, each from a model as old as it is
    (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation"). `records` is
    how many a site of a private run is taken to train on, a public number.
    """

    profile: str = choice("", "", *PROFILES, OWN)
    up_kbps: float = at_least(0.0, 0.0)
    down_kbps: float = at_least(0.0, 0.0)
    latency_ms: float = at_least(0.0, 0.0)
    speed: float = at_least(0.0, 0.0)
    spread: float = between(0.0, 0.0, 3.0)
    dropout: float = below_one(0.0)
    hours: float = setting(
        24.0,
        "greater than 0 and at most 24",
        lambda v: 0 < v <= 24,
        exclusiveMinimum=0,
        maximum=24,
    )
    target: float = setting(
        0.0, "from 0 to 1 (0.8 is 80 %)", lambda v: 0 <= v <= 1, minimum=0, maximum=1
    )
    over_selection: float = between(0.0, 0.0, 9.0)
    buffer: int = at_least(0, 0)
    records: int = at_least(0, 0)

    @property
    def line(self) -> Line:
        """The usual site."""
        base = PROFILES.get(self.profile, Line(0.0, 0.0, 0.0, 0.0))
        return Line(
            self.up_kbps or base.up_kbps,
            self.down_kbps or base.down_kbps,
            self.latency_ms or base.latency_ms,
            self.speed or base.speed,
        )
