"""Whatever is asked, in whatever order, with crashes in between: the ceilings hold.

What the rows say is accounted here from the file's bytes by formulas for Gaussians, which share
nothing with the code that wrote them.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedlite.identity import keys
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import Budget, Refused
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import Ledger, forget, read
from fedlite.privacy.ledger.files import UNFLUSHED

KEY = keys.Key.generate()
SIGMAS = (8.0, 15.0, 40.0)
RUNS = tuple(f"{number:016x}" for number in range(3))


def exact(parts: list[tuple[float, int]], delta: float) -> float:
    """Return epsilon of Gaussians (sigma, steps): Balle and Wang 2018, theorem 8."""
    mu = math.sqrt(sum(steps / sigma**2 for sigma, steps in parts))

    def excess(epsilon: float) -> float:
        low = norm.logcdf(-epsilon / mu - mu / 2)
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + low) - delta)

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12)) if mu else 0.0


def renyi(parts: list[tuple[float, int]], order: float, delta: float) -> float:
    """Return epsilon by RDP at one order, of which 1 % of delta is kept for cut samples."""
    total = order * sum(steps / (2 * sigma**2) for sigma, steps in parts)
    return total + math.log1p(-1 / order) - math.log(0.99 * delta * order) / (order - 1)


@dataclass
class Books:
    """The account of a ledger, kept a second time from its lines."""

    order: float = 0.0
    policy: dict[str, Any] = field(default_factory=dict)
    highest: float = 0.0
    plans: list[dict[str, Any]] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)

    def part(self, number: int, steps: int) -> tuple[float, int]:
        return self.plans[number]["noise_multiplier"], steps

    def bound(self, number: int, steps: int) -> float:
        """Return what `steps` of one plan and the whole of all others cost, by the valid bound."""
        delta = self.policy["delta"]
        parts = [
            self.part(n, steps if n == number else plan["steps"])
            for n, plan in enumerate(self.plans)
        ]
        return exact(parts, delta) if len(parts) == 1 else renyi(parts, self.order, delta)

    def held(self, number: int, steps: int, slack: float = 0.0) -> bool:
        """Return whether both ceilings in force hold with `steps` steps of one plan."""
        alone = exact([self.part(number, steps)], self.policy["delta"])
        per_run = self.policy["per_run"] or math.inf
        return (
            self.bound(number, steps) <= self.policy["epsilon"] - slack and alone <= per_run - slack
        )

    def take(self, row: dict[str, Any]) -> None:
        """Take one line, and check what must be true after it."""
        kind, body = row["kind"], row["body"]
        if kind == "genesis":
            self.order = body["order"]
        if kind in ("genesis", "policy"):
            self.policy = body["policy"]
            self.highest = max(self.highest, self.policy["epsilon"])
        if kind in ("genesis", "plan"):
            self.plans.append(body["plan"])
            self.reserved.append(0)
            assert 1 <= body["plan"]["steps"] <= body["plan"]["asked"]
            assert self.held(len(self.plans) - 1, body["plan"]["steps"], slack=-1e-9)
        if kind == "reserve":
            number = body["plan"]
            self.reserved[number] += body["steps"]
            assert self.reserved[number] <= self.plans[number]["steps"]
            assert self.held(number, self.reserved[number], slack=-1e-9)

    @classmethod
    def of(cls, path: Path) -> Books:
        books = cls()
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    books.take(json.loads(line))
        return books


runs = st.sampled_from(RUNS)
actions = st.one_of(
    st.tuples(st.just("begin"), runs, st.integers(0, 2), st.integers(1, 400)),
    st.tuples(st.just("reserve"), runs, st.integers(1, 3), st.integers(1, 60)),
    st.tuples(st.just("train"), runs, st.integers(1, 3), st.integers(1, 200)),
    st.tuples(st.just("lower"), st.sampled_from(["epsilon", "per_run"]), st.floats(0.3, 1.2)),
    st.tuples(st.just("delta"), st.sampled_from([1e-5, 1e-6])),
    st.tuples(st.just("crash"), st.integers(1, 200)),
)


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(st.lists(actions, min_size=3, max_size=14), st.sampled_from([0.7, 1.5, 3.0]))
def test_the_ceilings_hold_whatever_is_asked(asked: list[Any], ceiling: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scans.jsonl"
        desk = Desk(path, SitePolicy(site="north", epsilon=ceiling))
        for action, *arguments in asked:
            getattr(desk, action)(*arguments)
            books = Books.of(path)
            # The promise, recomputed as a whole: all that was taken, at the highest ceiling.
            used = [books.part(n, steps) for n, steps in enumerate(books.reserved)]
            assert not used or exact(used, 1e-5) <= books.highest + 1e-9
        rows = read(path) if path.exists() else []
        assert desk.sent == [row.body["payload"] for row in rows if row.kind == "release"]
        forget(path)


@dataclass
class Desk:
    """A site that is asked; every call opens the ledger anew, as after a restart."""

    path: Path
    policy: SitePolicy
    sent: list[str] = field(default_factory=list)
    terms: dict[str, RecordMechanism] = field(default_factory=dict)

    @contextlib.contextmanager
    def budget(self) -> Any:
        with Ledger.open(self.path, KEY, files=UNFLUSHED) as ledger:
            yield Budget(ledger)

    def begin(self, run: str, noise: int, steps: int) -> None:
        mechanism = self.terms.setdefault(
            run,
            RecordMechanism(
                clip=1.0,
                noise_multiplier=SIGMAS[noise],
                sampling_rate=1.0,
                steps=steps,
                expected_batch=9,
            ),
        )
        why = ""
        with self.budget() as budget:
            try:
                budget.begin(
                    run,
                    mechanism,
                    self.policy,
                    asked_epsilon=1.0,
                    delta=1e-5,
                    dataset="scans",
                    commitment="1" * 64,
                    code="2" * 64,
                )
            except Refused as refused:
                why = refused.why
        assert why in ("", "ceiling")
        books = Books.of(self.path)
        if why and books.plans:
            # Not even one step would have fitted, but for the accountant's grid.
            books.plans.append({"noise_multiplier": mechanism.noise_multiplier, "steps": 1})
            assert not books.held(len(books.plans) - 1, 1, slack=2e-3)

    def reserve(self, run: str, round: int, steps: int) -> bool:
        why = ""
        with self.budget() as budget:
            number = budget.account.number_of(run)
            total = steps + (0 if number is None else budget.account.reserved(number))
            try:
                budget.reserve(run, round, steps, "3" * 16)
            except Refused as refused:
                why = refused.why
        assert (why == "no-plan") == (number is None)
        if number is not None and why:
            books = Books.of(self.path)
            spent = total > books.plans[number]["steps"]
            assert why == ("plan-spent" if spent else "ceiling")
            assert spent or not books.held(number, total, slack=2e-3)
        return not why

    def train(self, run: str, round: int, steps: int) -> None:
        if self.reserve(run, round, steps):
            payload = f"{run} {round} {len(self.sent)}".encode()
            with self.budget() as budget:
                self.sent.append(budget.release(run, round, payload))

    def lower(self, name: str, factor: float) -> None:
        """Set a ceiling; above what is in force it must change nothing."""
        self.policy = replace(self.policy, **{name: factor * (getattr(self.policy, name) or 1.0)})  # type: ignore[arg-type]
        self._enforce()

    def delta(self, value: float) -> None:
        self.policy = replace(self.policy, delta=value)
        self._enforce()

    def _enforce(self) -> None:
        with self.budget() as budget:
            budget.enforce(self.policy)

    def crash(self, size: int) -> None:
        """Leave the beginning of a row, as a process does that is killed while it writes."""
        if self.path.exists():
            # Whoever writes has opened it before, and mended what another crash has left.
            with self.budget():
                pass
            forget(self.path)
            line = self.path.read_bytes().splitlines()[-1]
            with self.path.open("ab") as file:
                file.write(line[: min(size, len(line) - 1)])
