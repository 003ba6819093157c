"""Counts that private sites told are charged, and a summary that hides or shrinks that is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import agreement, audit, book as audit_book, claims as audit_claims, counts
from fedlite.audit.book import Book
from fedlite.audit.counts import Told, plans_of
from fedlite.audit.sources import find
from fedlite.privacy.counting import mechanism, run_of
from fedlite.privacy.ledger import read
from fedlite.scenario import from_dict
from simulations.run import simulate
from tests.audit.findings import found
from tests.privacy.federation import DELTA, RUN, Site, plan_body, policy_body

pytestmark = pytest.mark.long

COUNTS = run_of(bytes.fromhex(RUN))
SIGMA = mechanism(1.0, DELTA).noise_multiplier
PRIVACY = {"delta": DELTA, "counts": {"epsilon": 1.0, "noise_multiplier": SIGMA}}


def simulated(out: Path, **federation: Any) -> Path:
    tables: dict[str, Any] = {
        "federation": federation,
        "model": {"name": "cosine"},
        "training": {"steps": 1},
        "privacy": {"unit": "record", "epsilon": 3.0},
        "inference": {"calibration": 0.3, "alpha": 0.2, "epsilon": 1.0},
    }
    simulate(from_dict(tables), out, engine="serial", quiet=True)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("counts") / "run", rounds=2, sites=2)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one site was asked for its counts alone: it did not train."""
    out = tmp_path_factory.mktemp("partial") / "run"
    return simulated(out, rounds=1, sites=3, participation=0.34)


def summary_of(run: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return told


def test_a_run_with_counts_is_clean_and_costs_more_than_its_training(run: Path) -> None:
    assert found(run) == set()
    told = summary_of(run)
    assert told["inference"]["told"]["sites"] == ["site-01", "site-02"]
    for row in told["privacy"]["sites"].values():
        assert row["prefix"]["epsilon"] < 3.0 < row["epsilon"]["pld"] < 4.0
    page = (run / "report.html").read_text()
    assert "counts after the last round" in page and "budget is exceeded" not in page
    (ledger, _) = sorted((run / "ledgers").glob("*.jsonl"))
    plans = [row.body["plan"] for row in read(ledger) if row.kind in ("genesis", "plan")]
    assert [plan["run"] for plan in plans] == [told["run"], run_of(bytes.fromhex(told["run"]))]
    assert [plan["bound"] for plan in plans] == ["pld", "rdp"]


def test_no_exact_count_of_a_private_site_is_in_any_file_of_the_run(run: Path) -> None:
    from fedlite import plan as plans
    from fedlite.evaluation import open_model
    from fedlite.inference.counted import site_counts
    from fedlite.scenario import load

    scenario, trained = load(run / "scenario.toml"), open_model(run)
    plan, _, sites = plans.simulated(scenario)
    for site in sites:
        assert site.calibration is not None
        exact = site_counts(scenario, trained, site.calibration, plan.classes)
        told = summary_of(run)["inference"]["by_site"][site.name]
        assert "copies" not in summary_of(run)["inference"]
        assert told["records"] != sum(len(one.calibration or ()) for one in sites)
        text = (run / "rounds.jsonl").read_text() + (run / "summary.json").read_text()
        assert str(exact.harm.sum(0).tolist()) not in text


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda told: told["privacy"].pop("counts"), "summary-understates"),
        (lambda told: told["privacy"]["counts"].update(epsilon=0.5), "summary-mismatch"),
        (
            lambda told: told["privacy"]["sites"]["site-01"]["epsilon"].update(pld=3.0),
            "summary-understates",
        ),
    ],
)
def test_a_summary_that_hides_them_is_found(
    run: Path, tmp_path: Path, change: Any, rule: str
) -> None:
    assert rule in {of for of, _ in changed(run, tmp_path, change)}


def changed(run: Path, tmp_path: Path, change: Any) -> set[tuple[str, str]]:
    """Return rule and site of what is found where the summary is changed."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    told = summary_of(copy)
    change(told)
    (copy / "summary.json").write_text(json.dumps(told))
    return {(issue.rule, issue.site) for issue in audit([copy]).findings}


def alone(run: Path) -> str:
    """Return the site that has counted and not trained."""
    (site,) = (
        site
        for site, row in summary_of(run)["privacy"]["sites"].items()
        if row["prefix"]["steps"] == 0
    )
    return str(site)


def test_a_site_that_only_counted_is_clean_and_charged(partial: Path) -> None:
    assert found(partial) == set()
    (plan,) = (
        row.body["plan"]
        for row in read(partial / "ledgers" / f"{alone(partial)}.jsonl")
        if row.kind in ("genesis", "plan")
    )
    assert plan["run"] == run_of(bytes.fromhex(summary_of(partial)["run"]))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda told, row, site: row["epsilon"].update(pld=0.0), "summary-understates"),
        (lambda told, row, site: row["epsilon"].update(pld=0.0, prv=0.0), "summary-understates"),
        (lambda told, row, site: row.pop("epsilon"), "summary-damaged"),
        (lambda told, row, site: row.update(budget=3.0), "summary-mismatch"),
        (lambda told, row, site: row.update(releases=1), "unrecorded-release"),
        (lambda told, row, site: told["privacy"].pop("counts"), "summary-understates"),
        (lambda told, row, site: told["privacy"]["sites"].pop(site), "summary-understates"),
        # The server's own lines know whose counts it saw.
        (
            lambda told, row, site: told["inference"]["told"]["sites"].remove(site),
            "summary-understates",
        ),
        (lambda told, row, site: told.pop("inference"), "summary-understates"),
    ],
)
def test_a_lie_about_a_site_that_only_counted_is_found(
    partial: Path, tmp_path: Path, change: Any, rule: str
) -> None:
    site = alone(partial)

    def lie(told: dict[str, Any]) -> None:
        change(told, told["privacy"]["sites"][site], site)

    assert (rule, site) in changed(partial, tmp_path, lie)


def test_counts_that_the_server_did_not_see_are_found(partial: Path, tmp_path: Path) -> None:
    def lie(told: dict[str, Any]) -> None:
        told["inference"]["told"]["sites"].append("site-09")

    seen = changed(partial, tmp_path, lie)
    assert {("witness-missing-line", "site-09"), ("ledger-missing", "site-09")} <= seen


def test_counts_that_arrived_and_are_dropped_are_no_lie(partial: Path) -> None:
    source = find([partial]).runs[0]
    claims = audit_claims.read(source)
    site = alone(partial)
    told = json.loads((partial / "summary.json").read_text())["inference"]["told"]
    told["sites"].remove(site)
    told["dropped"] = {site: "bad-update"}
    claims.counts = counts.read({"told": told})
    assert agreement._counts(claims, {"site-01", "site-02", "site-03"}) == []


def test_counts_of_a_ledger_without_any_plan_for_them_are_found(
    partial: Path, tmp_path: Path
) -> None:
    claims = audit_claims.read(find([partial]).runs[0])
    site = Site(tmp_path, "site-1")
    site.genesis(plan_body(), policy_body(9.0))
    (file,) = find([site.path]).all_ledgers()
    issues = audit_claims.check(claims, {alone(partial): audit_book.read(file)}, [])
    assert ("unrecorded-release", alone(partial)) in {(one.rule, one.site) for one in issues}


def book(tmp_path: Path, *, told: bool = True, **terms: Any) -> Book:
    """Return the ledger of a site that has counted under a plan with other terms."""
    site = Site(tmp_path, "site-1")
    site.genesis(plan_body(), policy_body(9.0))
    site.take_part(1)
    honest = {"clip": 1.0, "expected_batch": 1, "epsilon_asked": 1.0, "noise_multiplier": SIGMA}
    plan = plan_body(COUNTS, 1) | honest | {"bound": "rdp", "charged": 5.0} | terms
    site.append(("plan", {"plan": plan}))
    if told:
        site.take_part(3, run=COUNTS, plan=1)
    (file,) = find([site.path]).all_ledgers()
    return audit_book.read(file)


def judged(of: Book, **privacy: Any) -> set[str]:
    told = Told(1.0, ["site-1"])
    return {rule for rule, _ in plans_of(RUN, PRIVACY | privacy, told, "site-1", of)[1]}


def test_an_honest_plan_for_counts_is_right(tmp_path: Path) -> None:
    of = book(tmp_path)
    assert judged(of) == set()
    assert [plan.run for plan in plans_of(RUN, PRIVACY, Told(), "site-1", of)[0]] == [COUNTS]


@pytest.mark.parametrize(
    ("terms", "rules"),
    [
        ({"noise_multiplier": SIGMA / 2}, {"summary-mismatch", "summary-understates"}),
        ({"sampling_rate": 0.1}, {"summary-mismatch"}),
        ({"clip": 0.1}, {"summary-mismatch"}),
        ({"expected_batch": 9}, {"summary-mismatch"}),
        ({"steps": 2, "asked": 2}, {"summary-mismatch"}),
        ({"epsilon_asked": 0.5}, {"summary-mismatch", "summary-understates"}),
        ({"delta": 1e-6}, {"summary-mismatch", "summary-understates"}),
    ],
)
def test_a_plan_that_is_not_that_of_counts_is_found(
    tmp_path: Path, terms: dict[str, Any], rules: set[str]
) -> None:
    assert judged(book(tmp_path, **terms)) == rules


def test_counts_that_arrived_and_were_never_released_are_found(tmp_path: Path) -> None:
    assert judged(book(tmp_path, told=False)) == {"unrecorded-release"}


def test_a_summary_without_a_word_on_them_is_found(tmp_path: Path) -> None:
    assert judged(book(tmp_path), counts=None) == {"summary-understates"}
