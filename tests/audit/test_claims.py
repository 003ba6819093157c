"""What a run claims in its summary and its rounds is held against the ledgers.

Covers fedlite/audit/agreement.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import audit
from fedlite.audit.table import cells
from fedlite.privacy.ledger import Ledger, read
from fedlite.privacy.ledger.rows import Head
from tests.audit.findings import found
from tests.privacy.federation import World, plan_body


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
