"""What the server itself writes and closes, what is old, and what is kept elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from tests.audit.forging import cut_record, edit, keep_lines, replace, rules
from tests.privacy.federation import World


@pytest.mark.parametrize("unit", ["", "Record", "none ", ["record"]])
def test_a_unit_that_there_is_not_switches_nothing_off(world: World, unit: object) -> None:
    edit(world, lambda s: s["privacy"].update(unit=unit, noise_multiplier=99.0))
    replace(world, "scenario.toml", '"record"', json.dumps(unit))
    world.close()
    assert rules(world) == {"summary-damaged"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"budget": 0.5}, "summary-mismatch"),
        ({"prefix": {"steps": 6, "epsilon": 0.5}}, "summary-understates"),
        ({"prefix": {"steps": 3, "epsilon": 0.5}}, "summary-understates"),
        ({"prefix": {"steps": 7, "epsilon": 9.0}}, "summary-damaged"),
        ({"prefix": {"steps": 6}}, "summary-damaged"),
        ({"prefix": 0.5}, "summary-damaged"),
    ],
)
def test_every_epsilon_of_the_summary_is_held_against_the_ledgers(
    world: World, change: dict[str, Any], rule: str
) -> None:
    honest = {"prefix": {"steps": 3, "epsilon": 0.9}}
    edit(world, lambda s: s["privacy"]["sites"]["site-2"].update(honest))
    world.close()
    assert rules(world) == set()
    edit(world, lambda s: s["privacy"]["sites"]["site-2"].update(change))
    world.close()
    assert rules(world) == {rule}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("epsilon = 0.5", "summary-mismatch"),
        ("delta = 1e-9", "summary-mismatch"),
        ("clip = 1.0", "summary-mismatch"),
    ],
)
def test_the_scenario_asks_for_what_the_sites_committed_to(
    world: World, line: str, rule: str
) -> None:
    replace(world, "scenario.toml", "[training]", "epsilon = 3.0\n[training]")
    world.close()
    assert rules(world) == set()
    replace(world, "scenario.toml", "epsilon = 3.0", line)
    world.close()
    assert rules(world) == {rule}


def test_a_scenario_that_names_no_steps_does_not_switch_them_off(world: World) -> None:
    replace(world, "scenario.toml", "steps = 1", "steps = 0")
    world.close()
    assert rules(world) == {"summary-damaged"}


def test_a_closed_record_has_no_line_that_only_some_would_read(world: World) -> None:
    with (world.run / "rounds.jsonl").open("a") as file:
        file.write('{"round": 7, "accepted": 3, "dropped": {}}')
    world.close()
    assert rules(world) == {"rounds-damaged"}


def test_a_site_is_counted_once(world: World) -> None:
    edit(world, lambda summary: summary["sites"].append("site-1"))
    world.close()
    assert "summary-damaged" in rules(world)


# What is old, and what is kept elsewhere.


def unchained(world: World, rows: list[dict[str, Any]]) -> None:
    """Write the witness as an older fedlite did: no chain, no closing line."""
    data = b""
    for row in rows:
        proof = keys.sign(world.server.key, b"fedlite-witness-line-v1\n" + canonical(row))
        data += canonical(row | {"proof": proof}) + b"\n"
    world.server.path.write_bytes(data)


def test_a_run_of_an_older_fedlite_is_read_and_not_closed(world: World) -> None:
    unchained(world, world.witness_lines())
    assert rules(world) == {"not-closed"}
    # It may be gone on with, but no unchained line may follow in the chain.
    world.close()
    assert rules(world) == {"not-closed"}
    old = world.server.path.read_bytes().splitlines(keepends=True)[0]
    world.server.path.write_bytes(world.server.path.read_bytes() + old)
    assert {"witness-broken", "not-closed"} <= rules(world)


def test_a_line_may_have_gone_from_those_that_an_older_fedlite_has_not_chained(
    world: World,
) -> None:
    rows = world.witness_lines()
    refused = rows[0] | {"kind": "refused", "why": "regress", "countersignature": ""}
    world.server.path.unlink()
    unchained(world, [*rows[:5], refused, *rows[5:]])
    world.close()
    assert rules(world) == {"refused-regress", "not-closed"}
    keep_lines(world, lambda line: line["kind"] != "refused")
    assert rules(world) == {"not-closed"}


def test_a_closing_line_that_the_server_keeps_elsewhere_is_compared(world: World) -> None:
    kept = world.root / "all-runs.jsonl"
    kept.write_bytes(world.server.path.read_bytes())
    assert audit([world.run, kept]).clean
    edit(world, lambda summary: summary.update(accuracy={"deep": 1.0}))
    world.write_witness(world.witness_lines())
    assert rules(world) == set()
    found = audit([world.run, kept])
    assert [issue.rule for issue in found.findings] == ["closed-otherwise"]
    assert "closes run" in found.findings[0].text


def test_a_run_that_is_killed_while_its_summary_is_added_to_is_closed_by_either_line(
    world: World,
) -> None:
    before = (world.run / "summary.json").read_bytes()
    edit(world, lambda summary: summary.update(accuracy={"deep": 0.5}))
    world.close()
    assert rules(world) == set()
    (world.run / "summary.json").write_bytes(before)
    assert rules(world) == set()


def test_a_lost_update_is_told_and_accuses_nobody(world: World) -> None:
    site = world.sites[0]
    world.write_witness(
        [row for row in world.witness_lines() if (row["site"], row["round"]) != (site.name, 6)]
    )
    edit(world, lambda s: s["privacy"]["sites"][site.name].update(releases=5))
    path = world.run / "rounds.jsonl"
    *rest, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rest, last.replace('"accepted": 3', '"accepted": 2')]))
    world.write_witness(world.witness_lines())
    found = audit([world.run])
    assert found.clean
    (note,) = [issue for issue in found.notes if issue.rule == "not-arrived"]
    assert "site-1: 1 released updates (round 6)" in note.text


def test_a_small_order_key_closes_nothing(world: World) -> None:
    # Anybody could make its signatures.
    identity = "01" + "00" * 31
    row = json.loads(world.server.path.read_bytes().splitlines()[-1])
    keep_lines(world, lambda line: line["kind"] != "closed")
    row |= {"witness": identity, "prev": world.server.head(), "proof": identity + "00" * 32}
    world.server.write_as_it_is(row)
    assert {"witness-forged", "not-closed"} <= rules(world)


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ({"seq": 999}, "truncated"),
        ({"ledger": "ab" * 32, "seq": 0}, "ledger-replaced"),
        ({"seq": 3, "hash": "ab" * 32}, "fork"),
    ],
)
def test_a_head_that_only_the_closing_line_names_must_be_in_the_ledger(
    world: World, head: dict[str, Any], rule: str
) -> None:
    # A server that remembers from run to run may have seen it in another one.
    heads = world.heads()
    heads["site-2"] |= head
    world.close(sites=heads)
    assert rules(world) == {rule}


def test_a_site_that_only_the_closing_line_names_must_have_a_ledger(world: World) -> None:
    world.close(sites=world.heads() | {"site-4": world.heads()["site-1"]})
    assert rules(world) == {"closed-otherwise", "summary-understates"}
    world.close(sites=world.heads() | {"site-4": {"ledger": "cd" * 32, "seq": 1, "hash": "0" * 64}})
    assert rules(world) == {"closed-otherwise", "ledger-missing"}


def test_the_record_must_hold_the_rounds_that_the_ledgers_and_the_server_know(
    world: World,
) -> None:
    # By the server itself, which closes what it has cut.
    cut_record(world, 5)
    world.write_witness(world.witness_lines())
    assert {"rounds-mismatch", "summary-understates"} <= rules(world)
    world.write_witness([row for row in world.witness_lines() if row["round"] <= 5])
    assert rules(world) == {"rounds-mismatch"}


def test_the_summary_must_speak_of_the_rounds_and_the_run_that_there_were(world: World) -> None:
    edit(world, lambda summary: summary.update(rounds=7))
    world.close()
    assert rules(world) == {"rounds-mismatch"}
    edit(world, lambda summary: summary.update(rounds=6))
    world.close(run="00000000000000bb")
    assert rules(world) == {"closed-otherwise"}
