"""Run directories forged by somebody who has all the files: none of them audits clean.

Each forgery is one that nobody could have seen before a run was closed by its server's signature.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import audit
from fedlite.identity import keys
from tests.audit.forging import (
    cut_and_tell,
    cut_books,
    cut_record,
    edit,
    keep_lines,
    replace,
    rules,
    sign_anew,
)
from tests.privacy.federation import World


def close_with_another_key(world: World) -> None:
    """Keep the server's own lines up to a round, and put an end of one's own after them."""
    cut_and_tell(world)
    world.server.key = keys.generate(world.root / "other.pem")
    world.server.public = keys.public_hex(world.server.key)
    world.close()


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


def test_a_site_is_found_wanting_from_wherever_its_run_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = world.witness_lines()[0] | {"kind": "refused", "why": "regress"}
    world.server.write(refused | {"countersignature": ""})
    world.close()
    monkeypatch.chdir(world.run)
    for path in (world.run, Path(), Path("../run")):
        assert [one.verdict for one in audit([path]).statements] == ["findings", "clean", "clean"]


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
