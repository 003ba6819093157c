"""The audit: an honest federation is clean, and what it claims and leaves out is said.

Covers fedlite/audit/inspection.py, fedlite/audit/statement.py.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy.admission import order_for, rdp_epsilon
from fedlite.privacy.ledger import Ledger, forget
from fedlite.privacy.mechanism import MAX_SLACK, Event
from tests.audit.findings import NEXT_RUN, found, noted
from tests.privacy.federation import DELTA, RUN, SIGMA, Site, World, plan_body, policy_body


def exact_epsilon(sigma: float, delta: float) -> float:
    """Return epsilon of one Gaussian step (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0, 50))


# An honest federation.


def test_an_honest_run_is_clean_and_the_figures_are_right(world: World) -> None:
    result = audit([world.run])
    assert result.clean and not result.findings
    assert result.verdict == "Clean: 3 ledgers checked, no finding."
    truth = exact_epsilon(SIGMA / math.sqrt(world.rounds), DELTA)
    for statement in result.statements:
        assert statement.spent is not None and statement.spent.prv is not None
        assert truth <= statement.spent.pld <= truth + 2e-4
        assert truth <= statement.spent.prv <= truth + 0.021
        assert truth <= statement.spent.rdp <= 1.2 * truth
        assert statement.charged_loss == statement.spent
        assert (statement.charged_by, statement.releases, len(statement.plans)) == ("pld", 6, 1)
        shown = math.ceil(statement.spent.pld * 1e4) / 1e4
        assert statement.sentence == (
            f"{statement.site}: clean. 6 releases cost at most epsilon {shown:.4f} "
            "of its ceiling 3 (delta 1e-05)."
        )
        assert statement.timeline == [(n, n) for n in range(1, 7)]
        assert statement.witnessed == statement.rows - 1
    assert result.checked == {"ledgers": 3, "rows": 72, "witness lines": 18, "runs": 1}


def test_where_it_lies_does_not_matter(world: World) -> None:
    assert found(world.root) == set()
    assert found(world.run, world.root / "sites") == set()
    assert found(world.run, world.sites[0].home, world.sites[0].path) == set()
    assert found(world.run, world.run) == set()
    shutil.rmtree(world.run / "ledgers")
    assert found(world.run, world.root / "sites") == set()


def test_several_ledgers_of_a_site_are_told_apart(world: World, site: Site) -> None:
    site.genesis(plan_body(), policy_body())
    first = site.path
    site.path = first.with_name("letters.jsonl")
    site.genesis(plan_body(), policy_body())
    names = {one.name for one in audit([site.home]).statements}
    assert names == {"site-1 (digits)", "site-1 (letters)"}
    names = {one.name for one in audit([world.run, first]).statements}
    assert names == {f"site-1 ({world.copy_of(site)})", f"site-1 ({first})", "site-2", "site-3"}


def test_a_ledger_alone_is_checked_and_said_not_to_be_witnessed(world: World) -> None:
    for path in (world.sites[0].path, world.sites[0].home, world.root / "sites"):
        assert found(path) == set()
        assert "not-witnessed" in noted(path)
    assert "not-witnessed" not in noted(world.run)
    assert found(world.sites[0].path, world.server.path) == set()
    assert "not-witnessed" not in noted(world.sites[0].path, world.server.path)


def test_a_run_that_goes_on_leaves_old_copies_behind(world: World) -> None:
    site = world.sites[0]
    site.append(("dataset-change", {"commitment": "ab" * 32}))
    assert found(world.run, site.home) == set()
    assert audit([world.run, site.home]).statements[0].rows == 25


def test_a_key_may_be_changed(world: World) -> None:
    site = world.sites[0]
    new = keys.generate(site.home / "keys" / "new.pem")
    with Ledger.open(site.path, site.key) as ledger:
        ledger.rotate(new)
    site.key = new
    site.append(("dataset-change", {"commitment": "ab" * 32}))
    with Ledger.open(site.path, site.key) as ledger:
        world.server.see(site, ledger.head)
    world.collect()
    world.close()
    assert found(world.run) == set()


def test_a_second_run_is_charged_by_the_filter(world: World) -> None:
    site, steps = world.sites[0], 4
    left = DELTA * (1 - MAX_SLACK)
    parts = [(Event(SIGMA), 6), (Event(SIGMA), steps)]
    cost = rdp_epsilon(parts, order_for(3.0, DELTA), left)
    plan = plan_body(NEXT_RUN, steps, bound="rdp", charged=cost)
    site.append(("plan", {"plan": plan}))
    site.receipt = None
    site.take_part(1, run=NEXT_RUN, plan=1)
    (statement,) = audit([site.path]).statements
    assert statement.verdict == "clean", statement.sentence
    assert statement.charged == pytest.approx(cost) and statement.charged_by == "rdp"
    assert (len(statement.plans), statement.reserved, statement.whole) == (2, 7, 10)
    assert f"{math.ceil(cost * 1e4) / 1e4:.4f}" in statement.sentence
    assert statement.charged_loss is not None and statement.spent is not None
    assert statement.spent.pld < statement.charged_loss.pld < cost


def test_a_site_that_stopped_says_where_and_why(world: World) -> None:
    site = world.sites[0]
    site.path.unlink()
    forget(site.path)
    charged = plan_body(steps=2)["charged"]
    site.genesis(plan_body(steps=2, asked=6), policy_body(charged))
    site.receipt = None
    for number in (1, 2):
        site.take_part(number)
    site.append(("refuse", {"run": RUN, "round": 3, "why": "plan-spent"}))
    shown = math.ceil(charged * 1e3) / 1e3
    start = f"site-1: clean. Stopped at {shown:.3f} of its own ceiling {charged:g}; the server"
    (alone,) = audit([site.path]).statements
    assert alone.sentence == (
        f"{start} asked 3.00 and was declined from round 3 on. 2 releases (delta 1e-05)."
    )
    run = world.root / "other"
    (run / "ledgers").mkdir(parents=True)
    shutil.copy(site.path, run / "ledgers" / "site-1.jsonl")
    rows = [{"round": n, "dropped": {"site-1": "budget"} if n > 2 else {}} for n in range(1, 7)]
    (run / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audit([run])
    assert "3.00 and was declined in 4 rounds. 2 releases" in result.statements[0].sentence
    assert {issue.rule for issue in result.findings} == {"witness-missing"}


def test_what_was_left_out_is_noted(world: World) -> None:
    assert noted(world.run) == {"server-key"}
    (world.run / "ledgers" / "README").write_text("")
    (world.run / "summary.json").unlink()
    assert found(world.run) == {"closed-otherwise"}
    world.write_witness(world.witness_lines(), close=False)
    assert found(world.run) == {"not-closed"}
    assert noted(world.run) == {"server-key", "not-audited", "not-compared"}


# Runs that claim nothing.


def test_without_a_privacy_unit_there_is_nothing_to_audit(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"run": "aa", "privacy": {"unit": "none"}}')
    result = audit([tmp_path])
    assert result.clean and result.verdict.startswith("Nothing to audit")
    assert result.runs[0].sentence == "no privacy unit: nothing to audit."
    assert [issue.rule for issue in result.notes] == ["nothing-to-audit"]


def test_a_run_that_claims_no_privacy_says_so(world: World) -> None:
    world.summarize(claimed=False)
    (world.run / "scenario.toml").write_text(
        '[privacy]\nunit = "record"\nsimulate_seed = 0\n[training]\nsteps = 1\n'
    )
    world.close()
    assert found(world.run) == set()
    shutil.rmtree(world.run / "ledgers")
    world.server.path.unlink()
    result = audit([world.run])
    assert result.clean and "no privacy is claimed" in result.runs[0].sentence
    assert {issue.rule for issue in result.notes} == {"not-claimed"}
