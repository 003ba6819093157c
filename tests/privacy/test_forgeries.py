"""Run directories forged by somebody who has all the files: none of them audits clean.

Each forgery is one that nobody could have seen before a run was closed by its server's signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.privacy.audit import audit
from fedlite.privacy.ledger import keys
from fedlite.privacy.ledger.rows import canonical, witness_message
from tests.privacy.federation import World

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def world(honest: World, tmp_path: Path) -> World:
    return honest.move(tmp_path / "world")


def edit(world: World, change: Change) -> None:
    path = world.run / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary, indent=2, sort_keys=True))


def replace(world: World, name: str, old: str, new: str) -> None:
    path = world.run / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def keep_lines(world: World, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep lines of the witness as they are: who has no key can only leave some out."""
    lines = world.server.path.read_bytes().splitlines(keepends=True)
    world.server.path.write_bytes(b"".join(line for line in lines if keep(json.loads(line))))


def cut_books(world: World, rounds: int) -> None:
    """End every ledger with the release of a round, and the witness with what it saw of that."""
    for site in world.sites:
        path = world.copy_of(site)
        lines, releases = path.read_bytes().splitlines(keepends=True), 0
        for number, line in enumerate(lines):
            releases += json.loads(line)["kind"] == "release"
            if releases == rounds:
                path.write_bytes(b"".join(lines[: number + 1]))
                break
    keep_lines(world, lambda line: line.get("round", rounds + 1) <= rounds)


def cut_record(world: World, rounds: int) -> None:
    """Make rounds and summary say the same as books that were cut."""
    path = world.run / "rounds.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:rounds]))

    def change(summary: dict[str, Any]) -> None:
        summary["rounds"] = rounds
        for row in summary["privacy"]["sites"].values():
            row["releases"] = rounds

    edit(world, change)


def sign_anew(world: World) -> None:
    """Make the witness anew with another key, and close the run with that."""
    world.server.key = keys.generate(world.root / "other.pem")
    world.server.public = keys.public_hex(world.server.key)
    rows = [
        row
        | {
            "witness": world.server.public,
            "countersignature": keys.sign(
                world.server.key, witness_message(row["ledger"], row["seq"], row["hash"])
            ),
        }
        for row in world.witness_lines()
    ]
    world.write_witness(rows)


def close_with_another_key(world: World) -> None:
    """Keep the server's own lines up to a round, and put an end of one's own after them."""
    cut_and_tell(world)
    world.server.key = keys.generate(world.root / "other.pem")
    world.server.public = keys.public_hex(world.server.key)
    world.close()


def cut_and_tell(world: World) -> None:
    cut_books(world, 2)
    cut_record(world, 2)


def remove_a_site(world: World) -> None:
    world.copy_of(world.sites[2]).unlink()
    keep_lines(world, lambda line: line.get("site") != "site-3")

    def change(summary: dict[str, Any]) -> None:
        summary["sites"].remove("site-3")
        del summary["privacy"]["sites"]["site-3"]

    edit(world, change)
    path = world.run / "rounds.jsonl"
    path.write_text(path.read_text().replace('"accepted": 3', '"accepted": 2'))


def remove_a_site_and_the_end(world: World) -> None:
    remove_a_site(world)
    keep_lines(world, lambda line: line["kind"] != "closed")


def take_another_runs_closing(world: World) -> None:
    lines = world.server.path.read_bytes().splitlines(keepends=True)
    world.close(run="00000000000000bb")
    other = world.server.path.read_bytes().splitlines(keepends=True)[-1]
    edit(world, lambda summary: summary.update(accuracy=1.0))
    world.server.path.write_bytes(b"".join([*lines[:-1], other]))


def close_something_else(world: World) -> None:
    """Put lines after the closing line, so that the run seems to go on."""
    lines = world.server.path.read_bytes().splitlines(keepends=True)
    world.server.path.write_bytes(b"".join([*lines, lines[0]]))


FORGERIES: dict[str, tuple[Callable[[World], object], set[str]]] = {
    "all books cut": (lambda w: cut_books(w, 2), {"not-closed", "witness-missing-line"}),
    "all books cut, the record too": (cut_and_tell, {"not-closed"}),
    "a site removed": (remove_a_site, {"witness-broken", "closed-otherwise", "ledger-missing"}),
    "a site removed, and the end": (remove_a_site_and_the_end, {"witness-broken", "not-closed"}),
    "the witness made anew": (sign_anew, {"witness-missing-line"}),
    "cut and closed with another key": (close_with_another_key, {"closed-otherwise"}),
    "no closing line": (
        lambda w: keep_lines(w, lambda line: line["kind"] != "closed"),
        {"not-closed"},
    ),
    "another run's closing line": (
        take_another_runs_closing,
        {"witness-broken", "closed-otherwise"},
    ),
    "lines after the end": (close_something_else, {"witness-broken", "not-closed"}),
    "rounds edited": (
        lambda w: replace(w, "rounds.jsonl", '"dropped": {}', '"dropped": {"site-1": "data"}'),
        {"closed-otherwise"},
    ),
    "rounds cut": (
        lambda w: cut_record(w, 4),
        {"closed-otherwise", "rounds-mismatch", "summary-understates"},
    ),
    "scenario deleted": (
        lambda w: (w.run / "scenario.toml").unlink(),
        {"closed-otherwise", "scenario-missing"},
    ),
    "scenario edited": (
        lambda w: replace(w, "scenario.toml", "steps = 1", "steps = 1\nepochs = 2"),
        {"closed-otherwise"},
    ),
    "summary edited": (
        lambda w: edit(w, lambda summary: summary.update(accuracy={"deep": 1.0})),
        {"closed-otherwise"},
    ),
    "no privacy claimed any more": (
        lambda w: edit(w, lambda summary: summary["privacy"].update(claimed=False)),
        {"closed-otherwise", "summary-mismatch"},
    ),
    "model replaced": (
        lambda w: (w.run / "model.safetensors").write_bytes(b"another"),
        {"closed-otherwise"},
    ),
    "model removed": (
        lambda w: (w.run / "model.safetensors").unlink(),
        {"closed-otherwise"},
    ),
    "a key twice in the summary": (
        lambda w: replace(w, "summary.json", '"rounds"', '"rounds": 1, "rounds"'),
        {"closed-otherwise", "summary-damaged"},
    ),
    "a key twice deep in the summary": (
        lambda w: replace(w, "summary.json", '"pld"', '"pld": 0.01, "pld"'),
        {"closed-otherwise", "summary-damaged"},
    ),
    "a number too large for a float": (
        lambda w: replace(w, "summary.json", '"rounds"', '"accuracy": 1e999, "rounds"'),
        {"closed-otherwise", "summary-damaged"},
    ),
    "something after the summary": (
        lambda w: (w.run / "summary.json").write_text(
            (w.run / "summary.json").read_text() + '{"privacy": {"unit": "none"}}'
        ),
        {"closed-otherwise", "summary-damaged"},
    ),
    "a key twice in the rounds": (
        lambda w: replace(w, "rounds.jsonl", '"accepted"', '"accepted": 9, "accepted"'),
        {"closed-otherwise", "rounds-damaged", "rounds-mismatch"},
    ),
    "a key twice in the witness": (
        lambda w: replace(w, "witness.jsonl", '"why":""', '"why":"","why":""'),
        {"witness-damaged", "witness-missing-line"},
    ),
    "a key twice in a ledger": (
        lambda w: replace(w, "ledgers/site-1.jsonl", '"seq":1,', '"seq":1,"seq":1,'),
        {"duplicate-key"},
    ),
}


def rules(world: World, *witness_keys: str) -> set[str]:
    found = audit([world.run], witness_keys)
    words = {issue.rule for issue in (*found.findings, *found.unchecked)}
    assert found.clean == (not words)
    return words


def test_what_was_not_forged_is_clean(world: World) -> None:
    assert rules(world) == set() and rules(world, world.server.public) == set()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_run_directory_is_not_clean(world: World, name: str) -> None:
    forge, expected = FORGERIES[name]
    forge(world)
    assert expected <= rules(world)


@pytest.mark.parametrize("name", FORGERIES)
def test_nor_is_it_where_the_true_key_is_known(world: World, name: str) -> None:
    public = world.server.public
    FORGERIES[name][0](world)
    assert rules(world, public)


def test_what_is_missing_is_said_by_name(world: World) -> None:
    remove_a_site(world)
    texts = " ".join(issue.text for issue in audit([world.run]).findings)
    assert "the closing line names site-3, and the summary does not" in texts
    assert "the ledger of site-3 is not here" in texts


# What a forger can do who makes a key of his own: only the known key tells it.


def cut_to_one_round_with_another_key(world: World) -> None:
    cut_books(world, 1)
    cut_record(world, 1)
    sign_anew(world)


def test_another_key_is_found_by_what_the_sites_have_kept(world: World) -> None:
    cut_and_tell(world)
    sign_anew(world)
    assert rules(world) == {"witness-missing-line"}


def test_nor_do_the_lines_that_were_replaced_help_in_a_file_of_their_own(world: World) -> None:
    cut_and_tell(world)
    aside = world.root / "aside.jsonl"
    aside.write_bytes(world.server.path.read_bytes())
    sign_anew(world)
    found = audit([world.run, aside])
    assert {issue.rule for issue in found.findings} == {"closed-otherwise"}


def test_a_run_of_one_round_closed_with_another_key_is_found_by_the_known_key(
    world: World,
) -> None:
    public = world.server.public
    cut_to_one_round_with_another_key(world)
    # The sites have kept no signature of the server yet: this is all that such a forger can do.
    found = audit([world.run])
    assert found.clean
    (note,) = [issue for issue in found.notes if issue.rule == "server-key"]
    assert world.server.public in note.text
    assert rules(world, public) == {"other-witness"}


def test_sites_that_list_their_server_are_enough_to_find_another_key(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=3, listed=True)
    assert rules(world) == set()
    cut_to_one_round_with_another_key(world)
    assert rules(world) == {"other-witness"}


def test_with_another_key_anything_that_no_ledger_holds_can_be_claimed(world: World) -> None:
    public = world.server.public
    (world.run / "model.safetensors").write_bytes(b"another")
    edit(world, lambda summary: summary.update(accuracy={"deep": 1.0}))
    cut_to_one_round_with_another_key(world)
    assert rules(world) == set()
    assert rules(world, public) == {"other-witness"}


# What is old, and what is kept elsewhere.


def unchained(world: World) -> None:
    """Write the witness as an older fedlite did: no chain, no closing line."""
    data = b""
    for row in world.witness_lines():
        proof = keys.sign(world.server.key, b"fedlite-witness-line-v1\n" + canonical(row))
        data += canonical(row | {"proof": proof}) + b"\n"
    world.server.path.write_bytes(data)


def test_a_run_of_an_older_fedlite_is_read_and_not_closed(world: World) -> None:
    unchained(world)
    assert rules(world) == {"not-closed"}
    # It may be gone on with, but no unchained line may follow in the chain.
    world.close()
    assert rules(world) == set()
    old = world.server.path.read_bytes().splitlines(keepends=True)[0]
    world.server.path.write_bytes(world.server.path.read_bytes() + old)
    assert {"witness-broken", "not-closed"} <= rules(world)


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
