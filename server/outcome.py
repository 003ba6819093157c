"""What one round's replies came to: who was used, what was sent, and by which kind of site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlite import depth
from fedlite.plan import Plan
from fedlite.reporting.record import WEAK, WHOLE


@dataclass
class Traffic:
    """Messages of one direction: their bytes, and those of float32 vectors for them."""

    sent: int = 0
    dense: int = 0

    def count(self, sent: int, dense: int) -> None:
        """Add one message."""
        self.sent, self.dense = self.sent + sent, self.dense + dense


@dataclass
class Outcome:
    """What one round's replies came to.

    up, down: what was sent, by the plan that a site trains by. got: bytes that each site was sent.
    trained: the round whose model each used update is of. In virtual time: times, seconds until
    each usable answer; held, answers that wait until it is known whom the round uses; late, those
    that it did not need; excused, the missing ones for whom nobody waited; seconds that it lasted;
    staleness, the mean number of the server's steps between an update's model and its use.
    """

    plan: Plan
    used: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    out: dict[str, str] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)
    up: dict[str, Traffic] = field(default_factory=dict)
    down: dict[str, Traffic] = field(default_factory=dict)
    got: dict[str, int] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    seconds: float = 0.0
    staleness: float = 0.0

    def sent_up(self, name: str, size: int, *, whole: bool = True) -> None:
        """Count an update of the site called `name`; not `whole`: what is said beside it."""
        self._count(self.up, name, size, whole)

    def sent_down(self, name: str, size: int, *, whole: bool = True) -> None:
        """Count an instruction to the site called `name`, or what is said beside it."""
        self._count(self.down, name, size, whole)
        self.got[name] = self.got.get(name, 0) + size

    def _count(self, where: dict[str, Traffic], name: str, size: int, whole: bool) -> None:
        dense = 4 * depth.plan_of(self.plan, name).travelling.size if whole else 0
        where.setdefault(self.kind(name), Traffic()).count(size, dense)

    def kind(self, name: str) -> str:
        """Return what the site called `name` trains."""
        return WEAK if name in self.plan.weak else WHOLE

    @property
    def bytes(self) -> dict[str, int]:
        """What was sent in all and what float32 vectors would have taken, as the record has it."""
        ways = (("up", self.up), ("down", self.down))
        sent = {f"bytes_{way}": sum(t.sent for t in kinds.values()) for way, kinds in ways}
        return sent | {f"dense_{way}": sum(t.dense for t in kinds.values()) for way, kinds in ways}

    def kinds(self, cpu: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return the same by what sites train, if not all train everything; else nothing.

        cpu: seconds of each site in this round by its name, as far as they are known.
        """
        if not self.plan.weak:
            return {}
        found: dict[str, dict[str, float]] = {}
        for kind in (WEAK, WHOLE):
            up, down = self.up.get(kind, Traffic()), self.down.get(kind, Traffic())
            used = sum(self.kind(name) == kind for name in self.used)
            found[kind] = {"used": used, "up": up.sent, "down": down.sent}
            if cpu:
                mine = [seconds for name, seconds in cpu.items() if self.kind(name) == kind]
                found[kind]["cpu_seconds"] = round(sum(mine), 4)
        return found

    @property
    def slowest(self) -> float:
        """Seconds until the last update arrived that was used."""
        return round(max((self.took[name] for name in self.used), default=0.0), 4)
