"""The audit: an honest federation is clean, and every known way to cheat or to break is named."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedlite.audit import audit, cost as audit_cost, page as audit_page, rules as audit_rules
from fedlite.audit.table import cells, print_audit
from fedlite.identity import keys
from fedlite.privacy.admission import order_for, rdp_epsilon
from fedlite.privacy.budget import account
from fedlite.privacy.ledger import Ledger, forget, read, rows as ledger_rows, rules
from fedlite.privacy.ledger.files import Files
from fedlite.privacy.ledger.rows import Head, row_message
from fedlite.privacy.mechanism import MAX_SLACK, Event
from tests.privacy.federation import (
    DELTA,
    RUN,
    SIGMA,
    Server,
    Site,
    World,
    plan_body,
    policy_body,
)

NEXT_RUN = "00000000000000bb"
MODULES = sorted(Path(audit_rules.__file__).parent.glob("*.py"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def world(honest: World, tmp_path: Path) -> World:
    return honest.move(tmp_path / "world")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "site-1")


def found(*paths: Path) -> set[str]:
    """Return the rules of what makes an audit fail, after checks that hold for every audit."""
    result = audit(list(paths))
    assert result.clean == (not result.findings and not result.unchecked)
    assert ("NOT clean" in result.verdict) == bool(result.findings)
    assert ("NOT closed" in result.verdict) == (not result.findings and bool(result.unchecked))
    json.dumps(result.as_dict(), allow_nan=False)
    for issue in (*result.findings, *result.unchecked, *result.notes):
        assert audit_rules.means(issue.rule) and audit_rules.mend(issue.rule)
    for statement in result.statements:
        assert (": clean." in statement.sentence) == (statement.verdict == "clean")
    return {issue.rule for issue in (*result.findings, *result.unchecked)}


def noted(*paths: Path) -> set[str]:
    return {issue.rule for issue in audit(list(paths)).notes}


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


# A changed ledger.


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found(honest: World, tmp_path: Path, data: Any) -> None:
    site = honest.sites[data.draw(st.integers(0, 2))]
    good = site.path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[at] ^ data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.jsonl"
    path.write_bytes(good[:at] + bytes([flipped]) + good[at + 1 :])
    result = audit([path])
    assert not result.clean
    assert all(issue.path == str(path) for issue in result.findings)


@pytest.mark.parametrize("where", [0, 0.3, 0.7, 1])
def test_a_flipped_byte_in_a_run_is_found_at_its_site(world: World, where: float) -> None:
    path = world.copy_of(world.sites[1])
    good = bytearray(path.read_bytes())
    good[int(where * (len(good) - 1))] ^= 1
    path.write_bytes(good)
    result = audit([world.run])
    assert not result.clean
    by_path = {tuple(s.paths): s.verdict for s in result.statements}
    assert by_path[(str(path),)] != "clean"
    assert sorted(by_path.values())[:2] == ["clean", "clean"]


@pytest.mark.parametrize("rows", [1, 2, 12, 22, 23])
def test_a_truncated_ledger_is_found_by_what_the_server_saw(world: World, rows: int) -> None:
    path = world.copy_of(world.sites[0])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:rows]))
    assert "truncated" in found(world.run)
    # By itself it is a good ledger; that its end cannot be seen is said.
    assert found(path) == set() and "not-witnessed" in noted(path)
    assert "truncated" in found(path, world.server.path)


def test_a_line_cut_in_half_is_torn_and_its_row_missing(world: World) -> None:
    path = world.copy_of(world.sites[0])
    path.write_bytes(path.read_bytes()[:-40])
    assert "truncated" in found(world.run)
    assert found(path) == set() and {"torn-line", "not-witnessed"} <= noted(path)


def test_a_site_that_restored_an_old_copy_is_found(world: World) -> None:
    site = world.sites[0]
    site.path.write_bytes(b"".join(site.path.read_bytes().splitlines(keepends=True)[:11]))
    result = audit([world.run, site.home])
    assert [i.path for i in result.findings if i.rule == "truncated"] == [str(site.path)]


def rebuild(site: Site, rounds: int, **change: Any) -> None:
    """Keep the first row, and write another history after it with the site's own key."""
    site.path.write_bytes(site.path.read_bytes().splitlines(keepends=True)[0])
    forget(site.path)
    site.receipt = None
    for number in range(1, rounds + 1):
        site.append(
            (
                "reserve",
                {"plan": 0, "run": RUN, "round": number, "steps": 1, "model": "cd" * 8} | change,
            )
        )


@pytest.mark.parametrize("rounds", [3, 30])
def test_a_ledger_rebuilt_with_its_own_key_is_a_fork(world: World, rounds: int) -> None:
    site = world.sites[0]
    rebuild(site, min(rounds, 6))
    with Ledger.open(site.path, site.key) as ledger:
        while len(ledger.rows) < rounds:
            ledger.append(("dataset-change", {"commitment": "ab" * 32}))
    assert found(site.path) == set()
    shutil.copy(site.path, world.copy_of(site))
    rule = "fork" if rounds > 24 else "truncated"
    assert {"fork", rule, "unrecorded-release"} <= found(world.run)


def test_two_copies_that_went_on_differently_are_a_fork(world: World) -> None:
    site = world.sites[0]
    site.append(("dataset-change", {"commitment": "ab" * 32}))
    lines = site.path.read_bytes().splitlines(keepends=True)
    other = world.root / "clone.jsonl"
    other.write_bytes(b"".join(lines[:-1]))
    with Ledger.open(other, site.key) as ledger:
        ledger.append(("dataset-change", {"commitment": "cd" * 32}))
    assert "fork" in found(site.path, other)


def test_a_cloned_machine_is_refused_by_the_server_and_found(world: World) -> None:
    site = world.sites[0]
    copy = world.root / "clone.jsonl"
    lines = site.path.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[:-3]))
    with Ledger.open(copy, site.key) as clone:
        body = {"plan": 0, "run": RUN, "round": 6, "steps": 1, "model": "cd" * 8}
        clone.append(("reserve", body))
        of = clone.head.seq
        clone.append(
            ("settle", {"of": of, "steps": 1, "payload": "cc" * 32}),
            ("release", {"of": of, "payload": "cc" * 32, "bytes": 9}),
        )
        head = clone.head
    line = world.server.line("refused", site, head, why="fork", payload="cc" * 32, round=6)
    world.server.write(line)
    world.close()
    assert found(world.run) == {"refused-fork", "unrecorded-release"}
    assert {"refused-fork", "fork"} <= found(world.run, copy)


@pytest.mark.parametrize("why", ["regress", "fork", "new-ledger", "forged", "missing", "unknown"])
def test_what_the_server_refused_is_a_finding(world: World, why: str) -> None:
    site = world.sites[1]
    with Ledger.open(site.path, site.key) as ledger:
        head = ledger.head
    if why == "fork":
        other = "cd" * 32
        head = replace(head, hash=other, signature=keys.sign(site.key, row_message(other)))
    elif why == "new-ledger":
        head = replace(head, ledger="cd" * 32)
    world.server.write(world.server.line("refused", site, head, why=why))
    world.close()
    rule = f"refused-{why}" if why not in ("missing", "unknown") else "refused-other"
    assert found(world.run) == {rule}


@pytest.mark.parametrize(
    ("why", "more"),
    [
        # Without a head, nothing shows what the site had done.
        ("regress", {"hash": "", "signature": "", "seq": 0}),
        ("fork", {"hash": "", "signature": ""}),
        # The server itself has countersigned this very head, of this very ledger.
        ("fork", {}),
        ("new-ledger", {}),
    ],
)
def test_a_false_accusation_is_a_finding_about_the_server(
    world: World, why: str, more: dict[str, Any]
) -> None:
    seen = world.witness_lines()[-1]
    world.server.write(seen | {"kind": "refused", "why": why, "countersignature": ""} | more)
    world.close()
    assert found(world.run) == {"witness-forged"}


# What the server wrote down.


def spoil_proof(world: World, row: dict[str, Any]) -> dict[str, Any]:
    return row | {"proof": "00" * 64}


def spoil_seq(world: World, row: dict[str, Any]) -> dict[str, Any]:
    return row | {"seq": row["seq"] + 1, "proof": world.server.prove(row)}


def spoil_by_another_key(world: World, row: dict[str, Any]) -> dict[str, Any]:
    stranger = Server(world.root / "stranger.jsonl")
    row = row | {"seq": row["seq"] + 3}
    return row | {"proof": stranger.prove(row)}


def spoil_by_the_server_itself(world: World, row: dict[str, Any]) -> dict[str, Any]:
    row = row | {"hash": "ab" * 32}
    return row | {"proof": world.server.prove(row)}


def spoil_accusation(world: World, row: dict[str, Any]) -> dict[str, Any]:
    row = row | {"kind": "refused", "why": "fork", "hash": "ab" * 32, "countersignature": ""}
    return row | {"proof": world.server.prove(row)}


def spoil_key(world: World, row: dict[str, Any]) -> dict[str, Any]:
    stranger = keys.generate(world.root / "stranger.pem")
    row = row | {
        "key": keys.public_hex(stranger),
        "signature": keys.sign(stranger, row_message(row["hash"])),
    }
    return row | {"proof": world.server.prove(row)}


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_proof,
        spoil_seq,
        spoil_by_another_key,
        spoil_by_the_server_itself,
        spoil_accusation,
        spoil_key,
    ],
)
def test_a_forged_witness_line_is_found(
    world: World, spoil: Callable[[World, dict[str, Any]], dict[str, Any]]
) -> None:
    heads = world.heads()
    row = world.witness_lines()[9] | {"prev": world.server.head()}
    world.server.write_as_it_is(spoil(world, row))
    # Even where the server then closed the run over it.
    world.close(sites=heads)
    assert found(world.run) == {"witness-forged"}


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"{}",
        b"\xff\xfe",
        b'{"kind":"seen"}',
        b'{"a":1,"a":1}',
        b"[" * 100_000,
        b"NaN",
    ],
)
def test_a_damaged_witness_line_is_found(world: World, line: bytes) -> None:
    world.server.path.write_bytes(line + b"\n" + world.server.path.read_bytes())
    assert found(world.run) == {"witness-damaged"}
    # What such a file closes, it does not close.
    assert {one.verdict for one in audit([world.run]).statements} == {"not closed"}


def test_witness_lines_with_other_types_are_damaged(world: World) -> None:
    good = world.server.path.read_bytes()
    row, heads = world.witness_lines()[0], world.heads()
    for name, value in (("seq", "1"), ("round", -1), ("hash", "AB" * 32), ("why", 3), ("kind", [])):
        world.server.path.write_bytes(good)
        world.server.write(row | {name: value})
        world.close(sites=heads)
        assert found(world.run) == {"witness-damaged"}, name


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(gone=st.sets(st.integers(0, 17), min_size=1))
def test_removed_witness_lines_are_found(honest: World, tmp_path: Path, gone: set[int]) -> None:
    world = honest.move(tmp_path / "world")
    lines = world.server.path.read_bytes().splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines) if number not in gone]
    world.server.path.write_bytes(b"".join(kept))
    assert "witness-broken" in found(world.run)
    # The server itself could chain and close what is left anew: the sites' ledgers remember.
    rows = world.witness_lines()
    world.write_witness(rows)
    assert "witness-missing-line" in found(world.run)


def test_a_removed_witness_file_is_found(world: World) -> None:
    world.server.path.unlink()
    assert found(world.run) == {"witness-missing", "not-closed"}


def test_a_witness_that_saw_two_rows_under_one_number_is_found(world: World) -> None:
    site = world.sites[0]
    copy = world.root / "copy.jsonl"
    copy.write_bytes(b"".join(site.path.read_bytes().splitlines(keepends=True)[:-1]))
    with Ledger.open(copy, site.key) as clone:
        clone.append(("dataset-change", {"commitment": "ab" * 32}))
        world.server.write(world.server.line("seen", site, clone.head))
    world.close()
    assert found(world.run) == {"fork"}


# Exchanged, missing and replaced ledgers.


def test_swapped_ledgers_are_found(world: World) -> None:
    one, two = (world.copy_of(site) for site in world.sites[:2])
    one.rename(world.root / "aside")
    two.rename(one)
    (world.root / "aside").rename(two)
    assert {"wrong-site", "ledger-replaced"} <= found(world.run)


def test_a_deleted_ledger_is_found(world: World) -> None:
    world.copy_of(world.sites[2]).unlink()
    result = audit([world.run])
    assert {issue.rule for issue in result.findings} == {"ledger-missing"}
    assert result.statements[-1].sentence == "site-3: NOT checked (ledger-missing)."
    world.server.path.unlink()
    assert found(world.run) == {"ledger-missing", "witness-missing", "not-closed"}


def test_a_deleted_ledger_that_began_anew_is_found(world: World) -> None:
    site = world.sites[0]
    old = site.path.rename(world.root / "old.jsonl")
    forget(site.path)
    site.genesis(plan_body(steps=6), policy_body())
    site.receipt = None
    for number in range(1, 7):
        site.take_part(number)
    world.collect()
    assert found(world.run) == {"ledger-replaced"}
    world.copy_of(site).unlink()
    assert found(world.run, site.home) == {"ledger-replaced"}
    # One key with two ledgers for one data set, even without any server's record.
    assert found(site.path, old) == {"ledger-replaced"}


def test_a_run_that_says_nothing_and_has_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text("")
    assert found(tmp_path) == {"no-ledger"}


# What the run claims.


def claim(world: World, **changes: Any) -> set[str]:
    summary = json.loads((world.run / "summary.json").read_text())
    row = summary["privacy"]["sites"]["site-2"]
    for name, value in changes.items():
        if name in ("pld", "prv", "rdp"):
            row["epsilon"][name] = value
        else:
            row[name] = value
    (world.run / "summary.json").write_text(json.dumps(summary))
    world.close()
    return found(world.run)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"pld": 1.0}, "summary-understates"),
        ({"prv": 1.0}, "summary-understates"),
        ({"rdp": 1.0}, "summary-understates"),
        ({"pld": None}, "summary-damaged"),
        ({"pld": "none"}, "summary-damaged"),
        ({"pld": math.nan}, "summary-damaged"),
        ({"epsilon": 3}, "summary-damaged"),
        ({"releases": "6"}, "summary-damaged"),
        ({"releases": -1}, "summary-damaged"),
    ],
)
def test_an_understated_site_is_found(world: World, changes: dict[str, Any], rule: str) -> None:
    assert claim(world, **changes) == {rule}


def test_a_summary_may_claim_more_than_was_spent_and_no_other_count(world: World) -> None:
    assert claim(world, pld=2.9, prv=2.9, rdp=2.9) == set()
    assert claim(world, releases=5) == {"summary-understates"}


def test_the_bound_of_a_run_that_ended_early_is_its_whole_plan(tmp_path: Path) -> None:
    # Where it ended may have depended on what was released; a prefix's epsilon bounds nothing.
    world = World(tmp_path, sites=1, rounds=3, planned=12)
    whole, prefix = (plan_body(steps=steps)["charged"] for steps in (12, 3))
    result = audit([world.run])
    assert result.clean
    (statement,) = result.statements
    assert f"3 releases cost at most epsilon {math.ceil(whole * 1e4) / 1e4:.4f}" in (
        statement.sentence
    )
    assert cells(statement)[4] == f"{math.ceil(whole * 1e3) / 1e3:.3f}"
    figures = statement.as_dict()["epsilon"]
    assert figures["whole"]["pld"] == whole and figures["spent"]["pld"] == prefix
    for claimed in (prefix, whole - 1e-3):
        epsilon = {"pld": claimed, "prv": whole + 0.0102, "rdp": 1.2 * whole}
        row = {"epsilon": epsilon, "budget": 3.0, "releases": 3}
        world.summarize(sites={"site-1": row})
        world.close()
        assert found(world.run) == {"summary-understates"}


def test_more_releases_than_were_recorded_are_found(world: World) -> None:
    assert claim(world, releases=7) == {"unrecorded-release", "witness-missing-line"}


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 9.0},
        {"sampling_rate": 0.5},
        {"steps": 5},
        {"delta": 1e-6},
        {"clip": 1.0},
        {"unit": "client"},
        {"expected_batch": 64},
        {"noise_multiplier": None},
    ],
)
def test_a_summary_of_another_mechanism_is_found(world: World, change: dict[str, Any]) -> None:
    world.summarize(**change)
    world.close()
    assert {"summary-mismatch"} <= found(world.run) <= {"summary-mismatch", "summary-damaged"}


def test_a_summary_that_hides_the_unit_or_a_site_is_found(world: World) -> None:
    world.summarize(unit="none")
    world.close()
    assert found(world.run) == {"summary-mismatch"}
    sites = world.summarize()["privacy"]["sites"]
    del sites["site-3"]
    world.summarize(sites=sites)
    world.close()
    assert found(world.run) == {"summary-understates", "closed-otherwise"}


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"privacy": 3}', '{"privacy": {}}'])
def test_a_damaged_summary_is_found(world: World, text: str) -> None:
    (world.run / "summary.json").write_text(text)
    assert "summary-damaged" in found(world.run)


@pytest.mark.parametrize(
    "text", ["x\n", "[]\n", '{"round": "1"}\n', '{"round": 1, "dropped": 2}\n']
)
def test_damaged_rounds_are_found(world: World, text: str) -> None:
    (world.run / "rounds.jsonl").write_text(text)
    world.close()
    assert found(world.run) == {"rounds-damaged", "rounds-mismatch"}


def test_an_unrecorded_release_is_found(world: World) -> None:
    site = world.sites[0]
    with Ledger.open(site.path, site.key) as ledger:
        head = ledger.head
    world.server.write(world.server.line("seen", site, head, payload="ee" * 32, round=7))
    world.close()
    assert found(world.run) == {"unrecorded-release", "summary-understates", "rounds-mismatch"}


def test_a_release_recorded_only_afterwards_is_found(world: World) -> None:
    """The server got the payload with a head from before its release row."""
    site = world.sites[0]
    lines = world.witness_lines()
    at = max(n for n, line in enumerate(lines) if line["site"] == site.name)
    before = read(site.path)[lines[at]["seq"] - 2]
    assert before.kind == "reserve"
    head = Head(lines[at]["ledger"], before.seq, before.hash, before.signature)
    said = {name: lines[at][name] for name in ("payload", "round")}
    lines[at] = world.server.line("seen", site, head, **said)
    world.write_witness(lines)
    assert found(world.run) == {"unrecorded-release"}


def test_a_payload_of_another_round_is_found(world: World) -> None:
    lines = world.witness_lines()
    lines[-1] |= {"round": 5}
    world.write_witness(lines)
    assert found(world.run) == {"other-round", "witness-missing-line"}


# Plans and ceilings, written past the rules with the site's own key.


def test_a_plan_above_the_ceiling_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=30), policy_body(2.0))
    assert found(site.path) == {"plan-above-ceiling"}


def test_a_plan_that_hides_its_cost_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=30, charged=1.9), policy_body(2.0))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}
    assert audit([site.path]).statements[0].charged == pytest.approx(2.8376, abs=1e-3)


def test_a_second_plan_above_the_ceiling_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=6), policy_body(1.5))
    site.append(("plan", {"plan": plan_body(NEXT_RUN, 6, bound="rdp", charged=1.4)}))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}


def test_a_later_plan_charged_by_pld_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=3), policy_body())
    site.append(("plan", {"plan": plan_body(NEXT_RUN, 3, charged=2.0)}))
    assert found(site.path) == {"plan-bound"}


def test_a_plan_above_the_ceiling_of_a_run_is_found(site: Site) -> None:
    site.genesis(plan_body(), policy_body(per_run=1.0))
    assert found(site.path) == {"plan-above-run-ceiling"}


def test_more_steps_than_planned_are_found(site: Site) -> None:
    site.genesis(plan_body(steps=2), policy_body())
    for number in range(1, 4):
        site.take_part(number)
    assert found(site.path) == {"plan-overspent"}


def test_a_ceiling_that_was_lowered_counts_from_then_on(site: Site) -> None:
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    site.append(("policy", {"policy": policy_body(0.6), "grant": ""}))
    assert found(site.path) == set() and "ceiling-lowered" in noted(site.path)
    site.take_part(2)
    assert found(site.path) == {"reserve-above-ceiling"}


def test_the_ceiling_of_a_person_spans_the_ledgers_of_a_site(site: Site, tmp_path: Path) -> None:
    site.genesis(plan_body(), policy_body(person=2.0))
    site.path = site.path.with_name("letters.jsonl")
    site.genesis(plan_body(), policy_body(person=2.0))
    assert found(site.home) == set()
    site.path = site.path.with_name("numbers.jsonl")
    site.genesis(plan_body(), policy_body(person=2.0))
    assert found(site.home) == {"person-above-ceiling"}
    assert found(site.home / "ledgers") == {"person-above-ceiling"}
    assert found(site.path) == set()


def test_a_cap_that_uses_up_delta_is_found(site: Site) -> None:
    site.genesis(
        plan_body(sampling_rate=0.1, max_batch=110, max_records=1000, charged=2.0), policy_body()
    )
    assert "plan-above-ceiling" in found(site.path)
    site.path = site.path.with_name("uncapped.jsonl")
    site.genesis(
        plan_body(sampling_rate=0.1, max_batch=900, max_records=1000, charged=2.0), policy_body()
    )
    assert found(site.path) == set()


# Epsilon of the plan of six steps, which the tests of ceilings stand on.
COST = plan_body()["charged"]


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(charged=COST - over), policy_body(COST - over))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_of_a_run_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body(per_run=COST - over))
    assert found(site.path) == {"plan-above-run-ceiling"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_of_a_person_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body(person=COST - over))
    assert found(site.home) == {"person-above-ceiling"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_lowered_ceiling_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    two = plan_body(steps=2)["charged"]
    site.append(("policy", {"policy": policy_body(two - over), "grant": ""}))
    site.take_part(2)
    assert found(site.path) == {"reserve-above-ceiling"}


def test_ceilings_may_be_met_exactly(site: Site) -> None:
    site.genesis(plan_body(), policy_body(COST, person=COST, per_run=COST))
    for number in range(1, 7):
        site.take_part(number)
    assert found(site.home) == set()


CLIENT = {"unit": "client-site", "expected_batch": 0}


@pytest.mark.parametrize(
    ("plan", "policy", "rule"),
    [
        # No sampling amplifies a client, and a record's release has a public divisor.
        (CLIENT | {"sampling_rate": 0.01}, {}, "plan-terms"),
        (CLIENT | {"unit": "client-server", "sampling_rate": 0.99}, {}, "plan-terms"),
        (CLIENT | {"expected_batch": 32}, {}, "plan-terms"),
        (CLIENT | {"max_batch": 9, "max_records": 99}, {}, "plan-terms"),
        ({"expected_batch": 0}, {}, "plan-terms"),
        ({"max_batch": 10}, {}, "plan-terms"),
        # Numbers that no scenario and no site.toml may have.
        ({"delta": 0.999}, {}, "body-value"),
        ({"delta": 0.11}, {}, "body-value"),
        ({"epsilon_asked": 101.0}, {}, "body-value"),
        ({"charged": 1e308}, {}, "body-value"),
        ({"clip": 1e7}, {}, "body-value"),
        ({"noise_multiplier": 2e6, "charged": 1.0}, {}, "body-value"),
        ({"steps": 20_000_000, "charged": 1.0}, {}, "body-value"),
        ({}, {"epsilon": 1e308}, "body-value"),
        ({}, {"epsilon": 100.5}, "body-value"),
        ({}, {"delta": 0.5}, "body-value"),
        ({}, {"person": 1e308}, "body-value"),
        ({}, {"per_run": 1e308}, "body-value"),
    ],
)
def test_a_plan_that_no_rule_allows_is_found(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    plan: dict[str, Any],
    policy: dict[str, Any],
    rule: str,
) -> None:
    units = ["client-server", "client-site", "record"]
    with monkeypatch.context() as patch:
        # Written past the writer's own checks, as whoever holds the site's key can.
        patch.setattr(ledger_rows, "check_body", lambda kind, body: None)
        body = plan_body(**{k: v for k, v in plan.items() if k != "steps"}) | plan
        site.genesis(body, policy_body() | {"units": units} | policy)
    forget(site.path)
    assert rule in found(site.path)


def test_a_client_plan_as_it_should_be_is_clean(site: Site) -> None:
    site.genesis(plan_body(**CLIENT), policy_body(units=["client-site"]))
    assert found(site.path) == set()


def test_a_cap_without_a_bound_on_records_cannot_be_accounted(site: Site) -> None:
    site.genesis(plan_body(max_batch=10), policy_body())
    result = audit([site.path])
    assert not result.clean and result.statements[0].charged is None
    assert "could not be computed" in result.statements[0].sentence


# Clocks.


class Clock(Files):
    def __init__(self, *times: float) -> None:
        self._times = list(times)

    def now(self) -> float:
        return self._times.pop(0) if len(self._times) > 1 else self._times[0]


@pytest.mark.parametrize(("back", "rules"), [(10, set()), (86400, {"clock-jump"})])
def test_a_clock_that_jumps_back_is_found(site: Site, back: int, rules: set[str]) -> None:
    site.genesis(plan_body(), policy_body())
    now = 1_800_000_000.0
    with Ledger.open(site.path, site.key, files=Clock(now, now - back)) as ledger:
        ledger.append(("dataset-change", {"commitment": "ab" * 32}))
        ledger.append(("dataset-change", {"commitment": "cd" * 32}))
    assert found(site.path) == rules
    assert ("clock" in noted(site.path)) == (not rules)


# What cannot be checked is never passed over.


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "empty"),
        (b"\n", "not-a-ledger"),
        (b"name,age\nmary,3\n", "not-a-ledger"),
        (bytes(range(256)) * 9, "not-a-ledger"),
        (b'{"body":{"version":2},"kind":"genesis"}\n', "newer-version"),
        (b"[" * 100_000 + b"\n", "not-a-ledger"),
    ],
)
def test_a_file_that_is_no_ledger_is_found(tmp_path: Path, data: bytes, rule: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    assert found(path) == {rule}
    assert found(tmp_path) == {rule}


def test_a_place_without_a_ledger_is_found(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "within").mkdir(parents=True)
    (empty / "notes.txt").write_text("nothing")
    assert found(empty) == {"no-ledger"}
    assert found(world.run, empty) == {"no-ledger"}
    (empty / "site.toml").write_text("")
    assert found(empty) == {"no-ledger"}


def test_a_path_that_does_not_exist_is_found(world: World, tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == {"unreadable"}
    assert found(world.run, Path("a\0b")) == {"unreadable"}


def test_what_cannot_be_read_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = Path.read_bytes, world.copy_of(world.sites[0])

    def refuse(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert found(closed) == {"unreadable"}
    assert found(world.run) == {"unreadable", "ledger-missing"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_permissions_are_respected(world: World) -> None:
    path = world.copy_of(world.sites[0])
    path.chmod(0)
    assert "unreadable" in found(path)
    (world.run / "ledgers").chmod(0)
    assert "unreadable" in found(world.run)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert found(tmp_path / "pipe.jsonl") == {"unreadable"}
    assert found(tmp_path) == {"unreadable"}


def test_a_poisoned_ledger_is_found(world: World) -> None:
    Path(f"{world.sites[0].path}.poisoned").touch()
    assert found(world.sites[0].home) == {"poisoned"}
    assert found(world.sites[0].path) == {"poisoned"}


def test_hundreds_of_findings_are_counted_not_listed(world: World) -> None:
    lines = world.server.path.read_bytes()
    world.server.path.write_bytes(b"nonsense\n" * 500 + lines)
    result = audit([world.run])
    assert len(result.findings) == 11
    assert "490 more" in result.findings[-1].text


# Accountants.


def test_a_missing_prv_library_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> float:
        raise ImportError("no prv")

    monkeypatch.setattr(audit_cost, "compose_prv", missing)
    result = audit([world.run])
    assert result.clean and "not-computed" in {issue.rule for issue in result.notes}
    assert result.statements[0].as_dict()["epsilon"]["spent"]["prv"] is None


@pytest.mark.parametrize(("name", "by"), [("compose_rdp", 0.5), ("compose_prv", 1.1)])
def test_accountants_that_disagree_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, by: float
) -> None:
    real = getattr(audit_cost, name)
    monkeypatch.setattr(audit_cost, name, lambda *a, **k: by * real(*a, **k))
    assert "accountants-disagree" in found(world.sites[0].path)


# What people see.


def hostile(tmp_path: Path) -> Path:
    site = Site(tmp_path, "[red]<script>alert(1)</script>".replace("/", "|"))
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    return site.path


def test_a_hostile_name_steers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = audit([hostile(tmp_path)])
    page = audit_page.build(result)
    assert "<script" not in page and "&lt;script" in page
    print_audit(result)
    assert "[red]<script>" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_page_stands_alone(world: World, spoilt: bool) -> None:
    if spoilt:
        world.copy_of(world.sites[0]).write_bytes(b"")
    page = audit_page.build(audit([world.run]))
    assert page.count("<svg") == (2 if spoilt else 3)
    assert not re.search(r"https?://|src=|href=|<script|@import", page)
    assert ("What to do" in page) == spoilt
    assert "no file can prove that" in page


def test_no_file_of_another_kind_is_overwritten(world: World, tmp_path: Path) -> None:
    result, path = audit([world.run]), tmp_path / "page.html"
    audit_page.write(result, path)
    audit_page.write(result, path)
    path.write_text("<title>fedlite: quickstart</title>")
    with pytest.raises(ValueError, match="never overwritten"):
        audit_page.write(result, path)
    assert path.read_text() == "<title>fedlite: quickstart</title>"
    assert not audit_page.may_write(tmp_path)


def rule_words() -> set[str]:
    """Return every rule that the audit's own code names."""
    words = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                if name in ("Issue", "issue", "_Wrong") and isinstance(first, ast.Constant):
                    words.add(first.value)
    return words


def test_every_rule_is_explained_and_every_explanation_used() -> None:
    words = rule_words()
    assert len(words) > 25
    known = set(audit_rules.AUDIT_RULES) | set(rules.RULES)
    assert words <= known
    refused = {rule for rule in audit_rules.AUDIT_RULES if rule.startswith("refused-")}
    assert set(audit_rules.AUDIT_RULES) - refused <= words


def test_every_rule_of_accounts_is_explained() -> None:
    source = Path(account.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r"_wrong\(\s*row,\s*\"([a-z-]+)\"", source))
    assert len(words) > 12
    for word in words - {"plan-above-ceiling"}:
        assert audit_rules.means(word) != audit_rules.means("no such rule"), word


def test_what_was_passed_over_is_named(world: World, tmp_path: Path) -> None:
    (world.run / "more").mkdir()
    (world.run / "ledgers" / ".hidden.jsonl").write_text("?")
    (world.root / "elsewhere").symlink_to(tmp_path)
    result = audit([world.root])
    named = {Path(issue.path).name for issue in result.notes if issue.rule == "not-audited"}
    assert {"more", ".hidden.jsonl", "elsewhere"} <= named
