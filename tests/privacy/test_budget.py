from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from fedlite.guard.grants import sign_grant
from fedlite.identity import keys
from fedlite.messages import Receipt
from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.privacy.accounting import compose_pld
from fedlite.privacy.budget import WHYS, Budget, Refused, siblings
from fedlite.privacy.budget.budget import MOST_REFUSALS
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import FILES, Files, Ledger, LedgerError, Row, forget, read
from fedlite.privacy.ledger.lock import Lock
from fedlite.privacy.ledger.rows import witness_message
from fedlite.privacy.ledger.rules import LedgerBusy
from fedlite.privacy.mechanism import Event, Mechanism

DELTA = 1e-5
RUN, OTHER, THIRD = "a" * 16, "b" * 16, "c" * 16
MODEL, CODE, DATA = "1" * 16, "2" * 64, "3" * 64


class Unflushed(Files):
    """Tests of what is written; that it is flushed is tested with the ledger."""

    def fsync(self, handle: int) -> None:
        """Do nothing."""


KEY = keys.Key.generate()
OWNER = keys.Key.generate()
SERVER = keys.Key.generate()


@dataclass
class Site:
    """One data set of a site, opened anew for every call as a site's process does."""

    path: Path
    policy: SitePolicy = field(default_factory=lambda: SitePolicy(site="north"))
    siblings: tuple[Path, ...] = ()
    key: keys.Key = KEY
    files: Files = field(default_factory=Unflushed)

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


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "scans.jsonl")


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


# Plans.


def test_a_plan_that_fits_is_admitted_whole_and_charged_what_it_costs(site: Site) -> None:
    assert site.begin(gaussian(20.0, 100)) == 0
    plan = site.plan()
    assert (plan["steps"], plan["asked"], plan["bound"]) == (100, 100, "pld")
    exact = epsilon_of((20.0, 100))
    assert exact <= plan["charged"] <= exact + 2e-3
    assert site.kinds == ["genesis"]


def test_a_plan_that_costs_exactly_the_ceiling_is_admitted_whole(site: Site) -> None:
    cost = compose_pld([(Event(4.0, 0.5), 10)], DELTA)
    site.policy = replace(site.policy, epsilon=cost)
    site.begin(replace(gaussian(4.0, 10), sampling_rate=0.5))
    assert (site.plan()["steps"], site.plan()["charged"]) == (10, cost)


def test_of_a_plan_of_3_under_a_ceiling_of_1_as_much_as_fits_is_admitted(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    sigma = sigma_for(3.0, 200)
    site.begin(gaussian(sigma, 200))
    plan = site.plan()
    assert plan["asked"] == 200 and 0 < plan["steps"] < 200
    assert epsilon_of((sigma, plan["steps"])) <= 1.0 < epsilon_of((sigma, plan["steps"] + 1))
    assert plan["charged"] <= 1.0


def test_two_servers_and_a_restart_do_not_get_more_than_the_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    small, large = (sigma_for(epsilon, 200) for epsilon in (0.5, 3.0))
    site.begin(gaussian(small, 200), RUN, asked_epsilon=0.5)
    site.reserve(1)
    forget(site.path)
    site.begin(gaussian(large, 200), OTHER)
    second = site.plan(1)
    order = site.rows[0].body["order"]
    assert second["bound"] == "rdp" and second["steps"] > 0
    history = (small, 200), (large, second["steps"])
    assert second["charged"] == pytest.approx(renyi_of(*history, order=order), abs=1e-6)
    assert second["charged"] <= 1.0
    assert renyi_of((small, 200), (large, second["steps"] + 1), order=order) > 1.0
    assert epsilon_of(*history) < 1.0
    assert refusal(site.begin, gaussian(large, 200), THIRD) == "ceiling"
    assert site.rows[-1].body == {"run": THIRD, "round": 0, "why": "ceiling"}


def test_what_a_plan_left_unused_is_not_given_to_another(site: Site) -> None:
    site.begin(gaussian(sigma_for(2.9, 100), 100))
    assert refusal(site.begin, gaussian(20.0, 10), OTHER) == "ceiling"


def test_a_plan_is_admitted_for_whole_rounds(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 100), round_steps=5)
    steps = site.plan()["steps"]
    assert steps % 5 == 0 and epsilon_of((20.0, steps)) <= 1.0 < epsilon_of((20.0, steps + 5))


def test_where_not_one_round_fits_the_run_is_refused(site: Site) -> None:
    assert refusal(site.begin, gaussian(1.0, 1)) == "ceiling"
    assert not site.path.exists(), "a refusal begins no ledger"
    site.policy = replace(site.policy, epsilon=0.0)
    assert refusal(site.begin, gaussian(50.0, 10)) == "ceiling"


def test_beginning_again_changes_nothing(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.begin(gaussian(40.0, 100), OTHER)
    before = site.path.read_bytes()
    assert site.begin(gaussian(20.0, 100)) == 0
    assert site.begin(gaussian(40.0, 100), OTHER, code="9" * 64) == 1
    assert site.path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 21.0},
        {"steps": 101},
        {"clip": 0.2},
        {"sampling_rate": 0.5},
        {"expected_batch": 51},
        {"max_batch": 49, "max_records": 49},
    ],
)
def test_a_run_cannot_change_its_plan(site: Site, change: dict[str, Any]) -> None:
    site.begin(gaussian(20.0, 100))
    assert refusal(site.begin, replace(gaussian(20.0, 100), **change)) == "other-plan"
    assert len(site.rows) == 2 and site.rows[1].kind == "refuse"


def test_a_unit_that_is_not_allowed_is_refused(site: Site) -> None:
    at_site = ClientMechanism(clip=0.1, noise_multiplier=20.0, steps=10, at="site")
    assert refusal(site.begin, at_site) == "unit"
    site.policy = replace(site.policy, units=("client-site", "record"))
    site.begin(at_site)
    plan = site.plan()
    assert plan["unit"] == "client-site"
    assert plan["charged"] == pytest.approx(epsilon_of((20.0, 10)), abs=2e-3)


def test_server_noise_counts_twice_beside_another_unit(site: Site) -> None:
    site.policy = replace(site.policy, units=("client-server", "record"))
    site.begin(ClientMechanism(clip=0.1, noise_multiplier=40.0, steps=50, at="server"))
    site.begin(gaussian(40.0, 50), OTHER)
    order = site.rows[0].body["order"]
    expected = renyi_of((20.0, 50), (40.0, 50), order=order)
    assert site.plan(1)["charged"] == pytest.approx(expected, abs=1e-6)


def test_cut_samples_take_their_part_of_delta(site: Site) -> None:
    mechanism = RecordMechanism(
        clip=0.1,
        noise_multiplier=2.0,
        sampling_rate=0.02,
        steps=400,
        expected_batch=20,
        max_batch=53,
        max_records=1000,
    )
    one = (1 + math.exp(3.0)) * binom.sf(53, 1000, 0.02)
    fits = math.floor(0.01 * DELTA / one)
    assert 10 < fits < 400
    site.begin(mechanism)
    assert site.plan()["steps"] == fits
    assert site.plan()["charged"] < 3.0, "it was the cuts that bound, not the noise"
    assert refusal(site.begin, mechanism, OTHER) == "ceiling"
    assert site.begin(replace(gaussian(100.0, 5)), OTHER) == 1


def test_another_data_set_under_the_same_name_is_written_down_and_gives_nothing_back(
    site: Site,
) -> None:
    site.begin(gaussian(20.0, 100))
    site.begin(gaussian(20.0, 100), commitment="4" * 64)
    site.begin(gaussian(20.0, 100), commitment="4" * 64)
    assert site.kinds == ["genesis", "dataset-change"]
    with site.open() as budget:
        assert len(budget.account.parts()) == 1


def test_a_ledger_stays_with_its_site_and_data_set(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    before = site.path.read_bytes()
    site.policy = replace(site.policy, epsilon=1.0)
    for change in ({"dataset": "bloods"}, {}):
        if not change:
            site.policy = replace(site.policy, site="south")
        with pytest.raises(LedgerError) as caught:
            site.begin(gaussian(20.0, 100), **change)
        assert caught.value.rule == "wrong-site"
    assert site.path.read_bytes() == before


# Ceilings of one run and of a person.


def test_one_run_may_not_spend_more_than_its_own_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, per_run=0.5)
    for number, run in enumerate((RUN, OTHER)):
        site.begin(gaussian(20.0, 100), run)
        steps = site.plan(number)["steps"]
        assert epsilon_of((20.0, steps)) <= 0.5 < epsilon_of((20.0, steps + 1))
    assert site.plan(1)["charged"] > 0.5, "what is charged is what all plans cost together"


def test_a_person_in_two_data_sets_is_protected_over_both(tmp_path: Path) -> None:
    policy = SitePolicy(site="north", person=1.0)
    scans, bloods = (
        Site(tmp_path / f"{name}.jsonl", policy, (tmp_path,)) for name in ("scans", "bloods")
    )
    scans.begin(gaussian(60.0, 100))
    bloods.begin(gaussian(20.0, 100))
    assert scans.plan()["steps"] == 100, "of its own ceiling of 3 there is enough"
    steps = bloods.plan()["steps"]
    assert 0 < steps < 100 and bloods.plan()["bound"] == "pld"
    order = 18.0  # optimal for Gaussians at epsilon 1
    assert renyi_of((60.0, 100), (20.0, steps), order=order) <= 1.0
    assert renyi_of((60.0, 100), (20.0, steps + 1), order=order) > 1.0
    assert refusal(scans.begin, gaussian(20.0, 100), OTHER) == "ceiling"


def test_a_data_set_is_not_its_own_sibling(tmp_path: Path) -> None:
    site = Site(tmp_path / "scans.jsonl", SitePolicy(site="north", person=1.0), (tmp_path,))
    site.siblings += (site.path, tmp_path / "missing.jsonl")
    for run in (RUN, OTHER):
        site.begin(gaussian(60.0, 120), run)
    steps = site.plan(1)["steps"]
    assert renyi_of((60.0, 120 + steps), order=18.0) <= 1.0
    assert renyi_of((60.0, 121 + steps), order=18.0) > 1.0


def test_a_person_s_ceiling_is_known_to_a_ledger_that_was_begun_meanwhile(tmp_path: Path) -> None:
    policy = SitePolicy(site="north", person=1.0)
    sigma = sigma_for(1.0, 100)
    scans, bloods = (
        Site(tmp_path / f"{name}.jsonl", policy, (tmp_path,)) for name in ("scans", "bloods")
    )
    with scans.open() as early:
        bloods.begin(gaussian(sigma, 100))
        terms = {"asked_epsilon": 1.0, "delta": DELTA, "commitment": DATA, "code": CODE}
        with pytest.raises(Refused, match="ceiling"):
            early.begin(RUN, gaussian(sigma, 100), policy, dataset="scans", **terms)  # type: ignore[arg-type]


def test_only_one_data_set_of_a_site_opens_a_plan_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "_WAIT", 0.0)
    site = Site(tmp_path / "scans.jsonl", SitePolicy(site="north", person=1.0), (tmp_path,))
    lock = Lock(str(tmp_path.resolve() / ".person"), 0.0)
    with pytest.raises(LedgerBusy):
        site.begin(gaussian(40.0, 100))
    lock.release()
    site.begin(gaussian(40.0, 100))


def test_a_sibling_that_cannot_be_read_stops_new_plans(tmp_path: Path) -> None:
    other = tmp_path / "bloods.jsonl"
    site = Site(tmp_path / "scans.jsonl", SitePolicy(site="north", person=1.0), (other,))
    other.write_bytes(b"nonsense\n")
    with pytest.raises(LedgerError):
        site.begin(gaussian(40.0, 100))
    other.unlink()
    site.begin(gaussian(40.0, 100))


# Rounds.


def test_a_round_is_reserved_settled_and_released(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    digest = site.release(b"update")
    assert digest == hashlib.sha256(b"update").hexdigest()
    assert site.kinds == ["genesis", "reserve", "settle", "release"]
    assert site.rows[2].body == {"of": 1, "steps": 5, "payload": digest}
    assert site.rows[3].body == {"of": 1, "payload": digest, "bytes": 6}


def test_sending_the_same_again_costs_nothing_and_another_payload_is_an_error(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.release(b"update")
    before = site.path.read_bytes()
    site.release(b"update")
    with pytest.raises(LedgerError) as caught:
        site.release(b"another")
    assert caught.value.rule == "release-mismatch"
    assert site.path.read_bytes() == before


def test_nothing_is_released_that_was_not_reserved(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    for place in ({"round": 2}, {"run": OTHER}):
        with pytest.raises(LedgerError) as caught:
            site.release(b"update", **place)  # type: ignore[arg-type]
        assert caught.value.rule == "release-without-reserve"


def test_the_same_payload_in_another_round_is_another_release(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    for round in (1, 2):
        site.reserve(5, round=round)
        site.release(b"update", round=round)
    assert site.kinds == ["genesis", *["reserve", "settle", "release"] * 2]
    with pytest.raises(LedgerError):
        site.release(b"update", round=3)


def test_training_a_round_again_costs_again_and_its_release_is_its_own(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.reserve(5)
    site.release(b"second attempt")
    site.reserve(5)
    site.release(b"third attempt")
    before = site.path.read_bytes()
    site.release(b"second attempt")
    assert site.path.read_bytes() == before
    assert [r.body["of"] for r in site.rows if r.kind == "release"] == [2, 5]
    with site.open() as budget:
        assert budget.account.reserved(0) == 15


def test_a_crash_between_settling_and_releasing_is_mended_by_the_same_payload(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.release(b"update")
    lines = site.path.read_bytes().splitlines(keepends=True)
    forget(site.path)
    site.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    with pytest.raises(LedgerError) as caught:
        site.release(b"another")
    assert caught.value.rule == "release-mismatch"
    site.release(b"update")
    assert site.kinds == ["genesis", "reserve", "settle", "release"]


def test_fewer_steps_than_reserved_may_be_settled_and_give_nothing_back(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    with site.open() as budget:
        with pytest.raises(ValueError, match="steps"):
            budget.release(RUN, 1, b"update", steps=6)
        budget.release(RUN, 1, b"update", steps=3)
        assert budget.account.reserved(0) == 5
    assert site.rows[2].body["steps"] == 3


def test_the_plan_s_last_step_is_the_last(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    site.reserve(6)
    assert refusal(site.reserve, 5) == "plan-spent"
    site.reserve(4)
    assert refusal(site.reserve, 1) == "plan-spent"
    assert refusal(site.reserve, 1, OTHER) == "no-plan"
    assert site.kinds == ["genesis", "reserve", "refuse", "reserve"]


def test_a_plan_that_was_cut_short_ends_where_it_was_cut(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 1000))
    steps = site.plan()["steps"]
    site.reserve(steps)
    assert refusal(site.reserve, 1) == "plan-spent"


@pytest.mark.parametrize("steps", [0, -1, True, 1.0, math.nan, math.inf, 10**30, "5", None])
def test_steps_from_outside_are_not_believed(site: Site, steps: Any) -> None:
    site.begin(gaussian(20.0, 10))
    with pytest.raises((ValueError, Refused)):
        site.reserve(steps)
    with site.open() as budget:
        assert budget.account.reserved(0) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"run": "A" * 16},
        {"run": "a" * 15},
        {"run": None},
        {"asked_epsilon": math.nan},
        {"asked_epsilon": -1.0},
        {"asked_epsilon": math.inf},
        {"delta": 0.0},
        {"delta": math.nan},
        {"commitment": "x"},
        {"code": ""},
        {"round_steps": 0},
        {"mechanism": gaussian(1e5, 10**9)},
    ],
)
def test_terms_from_outside_are_not_believed(site: Site, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  Each names another argument.
        site.begin(**{"mechanism": gaussian(20.0, 10), "run": RUN} | change)
    assert not site.path.exists()


@pytest.mark.parametrize("place", [{"round": -1}, {"round": 2**60}, {"round": True}, {"run": ""}])
def test_places_from_outside_are_not_believed(site: Site, place: dict[str, Any]) -> None:
    site.begin(gaussian(20.0, 10))
    with pytest.raises((ValueError, Refused)):
        site.reserve(1, **place)
    assert site.kinds == ["genesis"]


def test_a_server_that_asks_for_ever_does_not_fill_the_disk(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    with site.open() as budget:
        for round in range(20):
            with pytest.raises(Refused):
                budget.reserve(RUN, round, 11, MODEL)
        assert len(site.rows) == 2
        for number in range(MOST_REFUSALS + 20):
            budget.refuse(f"{number:016x}", 1, "ceiling")
    assert len(site.rows) == 1 + MOST_REFUSALS
    with site.open() as budget, pytest.raises(ValueError, match="why"):
        budget.refuse(RUN, 1, "mood")


# Lowering and raising.


def test_what_is_lowered_counts_at_once_and_for_good(site: Site) -> None:
    generous = site.policy
    site.begin(gaussian(20.0, 100))
    site.policy = replace(generous, epsilon=2.0, metrics=(), person=5.0)
    site.begin(gaussian(20.0, 100))
    site.policy = generous
    site.begin(gaussian(20.0, 100))
    assert site.kinds == ["genesis", "policy"]
    with site.open() as budget:
        assert (budget.account.policy.epsilon, budget.account.policy.person) == (2.0, 5.0)


def test_a_lowered_ceiling_stops_an_open_plan_where_it_is_reached(site: Site) -> None:
    site.begin(gaussian(20.0, 150))
    site.reserve(10)
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 150))
    taken = 10
    with site.open() as budget, pytest.raises(Refused, match="ceiling"):
        while True:
            budget.reserve(RUN, 1, 1, MODEL)
            taken += 1
    assert epsilon_of((20.0, taken)) <= 1.0 < epsilon_of((20.0, taken + 1))


@pytest.mark.parametrize("change", [{"epsilon": 0.5}, {"per_run": 0.5}, {"person": 0.5}])
def test_any_lowered_ceiling_stops_a_plan_that_is_beyond_it(
    site: Site, change: dict[str, float]
) -> None:
    site.begin(gaussian(20.0, 150))
    site.reserve(100)
    site.policy = replace(site.policy, **change)  # type: ignore[arg-type]
    site.begin(gaussian(20.0, 150))
    assert refusal(site.reserve, 1) == "ceiling"


def test_a_lower_delta_stops_a_plan_too(site: Site) -> None:
    sigma = sigma_for(3.0, 100)
    site.begin(gaussian(sigma, 100))
    site.policy = replace(site.policy, delta=1e-7)
    site.begin(gaussian(sigma, 100))
    with site.open() as budget:
        taken = 0
        with pytest.raises(Refused, match="ceiling"):
            while True:
                budget.reserve(RUN, 1, 1, MODEL)
                taken += 1
    low, high = (epsilon_of((sigma, n), delta=1e-7) for n in (taken, taken + 1))
    assert low <= 3.0 < high


def test_with_several_plans_a_lowered_ceiling_is_held_by_renyi(site: Site) -> None:
    site.begin(gaussian(40.0, 100))
    site.begin(gaussian(40.0, 200), OTHER)
    order = site.rows[0].body["order"]
    site.policy = replace(site.policy, epsilon=1.6)
    site.begin(gaussian(40.0, 100))
    taken = 0
    with site.open() as budget, pytest.raises(Refused, match="ceiling"):
        while True:
            budget.reserve(OTHER, 1, 1, MODEL)
            taken += 1
    assert 0 < taken < 200
    assert renyi_of((40.0, 100), (40.0, taken), order=order) <= 1.6
    assert renyi_of((40.0, 100), (40.0, taken + 1), order=order) > 1.6
    assert refusal(site.reserve, 1) == "ceiling", "the other plan counts whole, and came later"


def test_a_unit_that_is_no_longer_allowed_stops_its_plan(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    site.policy = replace(site.policy, units=("client-site",))
    site.begin(gaussian(20.0, 10))
    assert refusal(site.reserve, 1) == "unit"


def granted(site: Site, change: dict[str, Any]) -> tuple[SitePolicy, str]:
    wanted = replace(site.policy, **change)
    return wanted, sign_grant(OWNER, site.rows, wanted)


def test_the_owner_s_grant_raises_a_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0, owner=keys.public_hex(OWNER))
    sigma = sigma_for(1.0, 100)
    site.begin(gaussian(sigma, 100))
    wanted, grant = granted(site, {"epsilon": 4.0})
    with site.open() as budget:
        assert budget.raise_to(wanted, grant).kind == "policy"
    assert refusal(site.begin, gaussian(sigma, 100), OTHER) == "ceiling", "site.toml says 1 still"


def test_with_site_toml_raised_as_well_another_plan_fits(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0, owner=keys.public_hex(OWNER))
    sigma = sigma_for(1.0, 100)
    site.begin(gaussian(sigma, 100))
    site.policy = replace(site.policy, epsilon=4.0)
    assert refusal(site.begin, gaussian(sigma, 100), OTHER) == "ceiling", "the ledger says 1 still"
    wanted, grant = granted(site, {})
    with site.open() as budget:
        budget.raise_to(wanted, grant)
    site.begin(gaussian(sigma, 100), THIRD)
    assert site.plan(1)["steps"] == 100
    order = site.rows[0].body["order"]
    assert site.plan(1)["charged"] == pytest.approx(renyi_of((sigma, 200), order=order), abs=1e-6)


def test_a_grant_serves_one_change_of_one_ledger(site: Site, tmp_path: Path) -> None:
    site.policy = replace(site.policy, owner=keys.public_hex(OWNER))
    elsewhere = Site(tmp_path / "bloods.jsonl", site.policy)
    for each in (site, elsewhere):
        each.begin(gaussian(20.0, 100))
    wanted, grant = granted(site, {"epsilon": 4.0})

    def refused(where: Site, policy: SitePolicy, signature: str) -> None:
        before = where.path.read_bytes()
        with where.open() as budget, pytest.raises(LedgerError) as caught:
            budget.raise_to(policy, signature)
        assert caught.value.rule == "grant"
        assert where.path.read_bytes() == before

    refused(site, wanted, "")
    refused(site, wanted, "0" * 128)
    refused(site, replace(wanted, epsilon=5.0), grant)
    refused(elsewhere, wanted, grant)
    with site.open() as budget:
        budget.raise_to(wanted, grant)
    site.begin(gaussian(20.0, 100))  # site.toml lowers it again
    refused(site, wanted, grant)


def test_without_an_owner_nothing_can_be_raised(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    wanted = replace(site.policy, epsilon=4.0)
    with pytest.raises(ValueError, match="names none"):
        sign_grant(OWNER, site.rows, wanted)
    with site.open() as budget, pytest.raises(LedgerError) as caught:
        budget.raise_to(wanted, "1" * 128)
    assert caught.value.rule == "grant"


# Witnesses.


def receipt(site: Site, seq: int, key: keys.Key = SERVER, hash: str = "") -> Receipt:
    rows = site.rows
    hash = hash or rows[seq].hash
    signature = keys.sign(key, witness_message(rows[0].hash, seq, hash))
    return Receipt(bytes.fromhex(keys.public_hex(key)), seq, bytes.fromhex(signature))


def witness(site: Site, seen: Receipt) -> None:
    with site.open() as budget:
        budget.witness(seen)
        # It is written with the next row, in one flush; here there is none.
        if budget._receipt:
            budget._append_all()


def test_a_receipt_is_kept_once(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(1)
    for seq in (1, 1, 0):
        witness(site, receipt(site, seq))
    assert site.kinds == ["genesis", "reserve", "witness"]
    assert site.rows[2].body["hash"] == site.rows[1].hash


def test_receipts_for_receipts_do_not_fill_the_disk(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    for _ in range(5):
        witness(site, receipt(site, len(site.rows) - 1))
        witness(site, receipt(site, len(site.rows) - 1, keys.Key.generate()))
    assert site.kinds == ["genesis", "witness"]


def test_a_ledger_from_an_old_copy_takes_no_private_step(site: Site, tmp_path: Path) -> None:
    site.begin(gaussian(20.0, 100))
    copy = site.path.read_bytes()
    site.reserve(1)
    seen = receipt(site, 1)
    forget(site.path)
    site.path.write_bytes(copy)
    assert refusal(witness, site, seen) == "regress"
    assert site.path.read_bytes() == copy, "a row here would make a fork of it"
    site.reserve(1, round=2)
    assert refusal(witness, site, seen) == "fork"
    empty = Site(tmp_path / "new.jsonl")
    assert refusal(witness, empty, seen) == "regress"
    assert not empty.path.exists()


def test_a_receipt_that_was_not_signed_by_its_server_is_refused(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    good = receipt(site, 0)
    for bad in (
        replace(good, signature=bytes(64)),
        replace(good, witness=bytes.fromhex(keys.public_hex(OWNER))),
        receipt(site, 0, hash="5" * 64),
    ):
        assert refusal(witness, site, bad) == "fork"
    assert site.kinds == ["genesis"]


def test_only_listed_servers_are_believed(site: Site) -> None:
    site.policy = replace(site.policy, servers=(keys.public_hex(SERVER),))
    site.begin(gaussian(20.0, 100))
    assert refusal(witness, site, receipt(site, 0, OWNER)) == "server"
    witness(site, receipt(site, 0))
    site.policy = replace(site.policy, servers=(keys.public_hex(OWNER),))
    site.begin(gaussian(20.0, 100))
    witness(site, receipt(site, 2, OWNER))
    assert site.kinds == ["genesis", "witness", "policy", "witness"]


# Reports, and the room.


def test_a_ledger_that_makes_no_sense_is_not_spent_from(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    with Ledger.open(site.path, KEY, files=FILES) as ledger:
        ledger.append(("settle", {"of": 5, "steps": 1, "payload": "0" * 64}))
    with pytest.raises(LedgerError) as caught:
        site.reserve(1)
    assert caught.value.rule == "settle-without-reserve"


def test_a_site_s_budget_needs_neither_torch_nor_flower() -> None:
    code = (
        "import sys, fedlite.privacy.budget; print([m for m in ('torch', 'flwr', 'dp_accounting',"
        " 'scipy', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
