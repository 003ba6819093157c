"""A person in several data sets of a site is protected over all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlite.privacy.budget import Refused, siblings
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import LedgerError
from fedlite.privacy.ledger.lock import Lock
from fedlite.privacy.ledger.rules import LedgerBusy
from tests.privacy.budget.holder import (
    CODE,
    DATA,
    DELTA,
    OTHER,
    RUN,
    Site,
    gaussian,
    refusal,
    renyi_of,
    sigma_for,
)


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
