"""Run directories forged by somebody who has all the files: none of them audits clean.

Each forgery is one that nobody could have seen before a run was closed by its server's signature.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import audit, book, lines
from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.privacy.ledger.rows import decode, witness_message
from fedlite.privacy.ledger.rules import LedgerError
from tests.privacy.federation import Site, World, plan_body, policy_body

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


# What somebody can take away who hopes that less is asked of what is less.


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


# What the server itself writes and closes.


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


# What is meant to exhaust whoever reads it.


def test_plans_without_end_are_not_all_charged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "_MOST_PLANS", 3)
    site = Site(world.root / "elsewhere", "site-9")
    site.genesis(plan_body(noise_multiplier=1e6), policy_body())
    for number in range(1, 4):
        more = plan_body(f"{number:016x}", noise_multiplier=1e6 - number, bound="rdp", charged=0.1)
        site.append(("plan", {"plan": more}))
        found = {issue.rule for issue in audit([site.path]).findings}
        assert found == ({"too-many"} if number == 3 else set())


def test_a_scenario_that_never_ends_is_not_read(world: World) -> None:
    for made in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (world.run / "scenario.toml").unlink()
        made(world.run / "scenario.toml")
        assert rules(world) == {"closed-otherwise", "scenario-missing", "unreadable"}


@pytest.mark.parametrize("name", ["witness.jsonl", "rounds.jsonl", "ledgers/site-1.jsonl"])
def test_millions_of_empty_lines_are_not_read(world: World, name: str) -> None:
    with (world.run / name).open("ab") as file:
        file.write(b"\n" * (2**20 + 1))
    assert "unreadable" in rules(world)


def test_a_thousand_wrong_lines_end_the_reading_of_a_witness(world: World) -> None:
    with world.server.path.open("ab") as file:
        file.write(b"{}\n" * 5000)
    (witnessed,) = [lines.read(world.server.path, world.server.path.read_bytes())]
    assert [issue.rule for issue in witnessed.issues[-2:]] == ["witness-damaged", "too-many"]
    assert len(witnessed.issues) == 1001


def test_the_key_that_occurs_twice_is_found_at_once_among_very_many() -> None:
    names = ",".join(f'"k{number}":1' for number in range(20_000))
    start = time.process_time()
    with pytest.raises(LedgerError, match="'k19999' occurs twice"):
        decode(f'{{{names},"k19999":1}}'.encode())
    # Counting each name anew took 16 s, and a file may hold a thousand times as many.
    assert time.process_time() - start < 2


def test_a_site_is_found_wanting_from_wherever_its_run_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = world.witness_lines()[0] | {"kind": "refused", "why": "regress"}
    world.server.write(refused | {"countersignature": ""})
    world.close()
    monkeypatch.chdir(world.run)
    for path in (world.run, Path(), Path("../run")):
        assert [one.verdict for one in audit([path]).statements] == ["findings", "clean", "clean"]


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
