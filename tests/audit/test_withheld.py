"""What somebody can take away who hopes that less is asked of what is less."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from fedlite.audit import audit
from tests.audit.forging import Change, cut_books, edit, rules
from tests.privacy.federation import Site, World, plan_body, policy_body


def claim_nothing(world: World, scenario: str, change: Change) -> None:
    shutil.rmtree(world.run / "ledgers")
    world.server.path.unlink()
    (world.run / "scenario.toml").write_text(scenario)
    edit(world, change)


def only_ledgers(world: World) -> None:
    cut_books(world, 2)
    for path in world.run.iterdir():
        if path.is_file():
            path.unlink()


LESS: dict[str, tuple[Callable[[World], object], set[str]]] = {
    "no privacy unit": (
        lambda w: claim_nothing(
            w,
            '[privacy]\nunit = "none"\n',
            lambda s: s.update(privacy={"unit": "none"}, accuracy={"deep": 1.0}),
        ),
        {"not-closed"},
    ),
    "noise that can be repeated": (
        lambda w: claim_nothing(
            w,
            '[privacy]\nunit = "record"\nsimulate_seed = 3\n',
            lambda s: s["privacy"].update(claimed=False),
        ),
        {"not-closed"},
    ),
    "ledgers alone, cut": (only_ledgers, {"not-witnessed"}),
}


@pytest.mark.parametrize("name", LESS)
def test_whoever_names_the_servers_key_is_told_where_it_signed_nothing(
    world: World, name: str
) -> None:
    public = world.server.public
    take_away, expected = LESS[name]
    take_away(world)
    assert rules(world) == set()
    assert rules(world, public) == expected
    assert audit([world.run], [public]).verdict.startswith("NOT closed: no finding, but ")


def test_a_run_without_the_servers_books_is_no_folder_of_ledgers(world: World) -> None:
    for name in ("summary.json", "rounds.jsonl", "scenario.toml", "witness.jsonl"):
        (world.run / name).unlink()
    assert rules(world) == {"witness-missing", "not-closed"}


def test_a_folder_in_which_the_run_is_only_a_link_is_not_clean(world: World) -> None:
    (world.root / "runs").mkdir()
    (world.root / "runs" / "run").symlink_to(world.run)
    assert {issue.rule for issue in audit([world.root / "runs"]).findings} == {"no-ledger"}


def test_a_ledger_that_somebody_adds_to_a_closed_run_is_not_vouched_for(world: World) -> None:
    # The name looks like that of a site; its plan is of another run.
    site = Site(world.root / "elsewhere", "s\u0456te-1")
    site.genesis(plan_body(run="00000000000000bb"), policy_body())
    site.take_part(1, run="00000000000000bb")
    shutil.copy(site.path, world.copy_of(site))
    assert rules(world) == {"closed-otherwise"}


def test_nothing_stands_after_the_closing_line_not_even_half_a_line(world: World) -> None:
    with world.server.path.open("ab") as file:
        file.write(b'{"countersignature":"')
    assert rules(world) == {"not-closed"}


def test_the_servers_file_of_all_runs_is_not_that_of_one(world: World) -> None:
    # It holds the same lines and more, and is chained and signed as well.
    lines = world.server.path.read_bytes().splitlines()
    *rows, closing = (json.loads(line) for line in lines)
    world.server.path.unlink()
    for row in [rows[0] | {"run": "00000000000000bb", "payload": ""}, *rows, closing]:
        world.server.write({k: v for k, v in row.items() if k not in ("prev", "proof")})
    assert rules(world) == {"witness-broken"}


@pytest.mark.parametrize("name", ["report.html", "figures", "checkpoint", "notes.txt"])
def test_what_the_server_does_not_sign_is_named(world: World, name: str) -> None:
    (world.run / name).write_text("epsilon 0.01")
    found = audit([world.run], [world.server.public])
    assert found.clean
    (note,) = [issue for issue in found.notes if issue.rule == "not-audited"]
    assert note.path == str(world.run / name) and "was not looked at" in note.text
