"""One data set's budget and the exact epsilons of Gaussians, for the tests of budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedlite.identity import keys
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import WHYS, Budget, Refused
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import Files, Ledger, Row, read
from fedlite.privacy.ledger.files import UNFLUSHED
from fedlite.privacy.mechanism import Mechanism

DELTA = 1e-5
RUN, OTHER, THIRD = "a" * 16, "b" * 16, "c" * 16
MODEL, CODE, DATA = "1" * 16, "2" * 64, "3" * 64


KEY = keys.Key.generate()
OWNER = keys.Key.generate()


@dataclass
class Site:
    """One data set of a site, opened anew for every call as a site's process does."""

    path: Path
    policy: SitePolicy = field(default_factory=lambda: SitePolicy(site="north"))
    siblings: tuple[Path, ...] = ()
    key: keys.Key = KEY
    # That rows are flushed is tested with the ledger.
    files: Files = UNFLUSHED

    @contextmanager
    def open(self) -> Iterator[Budget]:
        with Ledger.open(self.path, self.key, files=self.files) as ledger:
            yield Budget(ledger, siblings=self.siblings)

    def begin(self, mechanism: Mechanism, run: str = RUN, **changes: Any) -> int:
        terms: dict[str, Any] = {
            "asked_epsilon": 3.0,
            "delta": DELTA,
            "dataset": self.path.stem,
            "commitment": DATA,
            "code": CODE,
        }
        with self.open() as budget:
            return budget.begin(run, mechanism, self.policy, **terms | changes)

    def reserve(self, steps: int, run: str = RUN, round: int = 1) -> None:
        with self.open() as budget:
            budget.reserve(run, round, steps, MODEL)

    def release(self, payload: bytes, run: str = RUN, round: int = 1) -> str:
        with self.open() as budget:
            return budget.release(run, round, payload)

    @property
    def rows(self) -> list[Row]:
        return read(self.path) if self.path.exists() else []

    @property
    def kinds(self) -> list[str]:
        return [row.kind for row in self.rows]

    def plan(self, number: int = 0) -> dict[str, Any]:
        plans = [r.body["plan"] for r in self.rows if r.kind in ("genesis", "plan")]
        return dict(plans[number])


def gaussian(sigma: float, steps: int) -> RecordMechanism:
    """Return a mechanism without sampling: what it costs is known exactly."""
    return RecordMechanism(
        clip=0.1, noise_multiplier=sigma, sampling_rate=1.0, steps=steps, expected_batch=50
    )


def epsilon_of(*parts: tuple[float, int], delta: float = DELTA) -> float:
    """Return epsilon of Gaussians (sigma, steps), exactly: Balle and Wang 2018, theorem 8."""
    mu = math.sqrt(sum(steps / sigma**2 for sigma, steps in parts))

    def excess(epsilon: float) -> float:
        low = norm.logcdf(-epsilon / mu - mu / 2)
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + low) - delta)

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12)) if mu else 0.0


def sigma_for(epsilon: float, steps: int) -> float:
    """Return the noise with which `steps` steps cost just less than `epsilon`."""
    found = brentq(lambda sigma: epsilon_of((sigma, steps)) - epsilon, 1.0, 1000.0)
    return float(found) * 1.001


def renyi_of(*parts: tuple[float, int], order: float, delta: float = DELTA * 0.99) -> float:
    """Return epsilon of Gaussians by RDP at one order, by hand: Canonne et al. 2020, prop. 12."""
    total = order * math.fsum(steps / (2 * sigma**2) for sigma, steps in parts)
    return total + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def refusal(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        call(*args, **more)
    assert caught.value.why in WHYS
    return caught.value.why
