"""Ways to forge the directory of a run, for the tests of what the audit makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy.ledger.rows import witness_message
from tests.privacy.federation import World

Change = Callable[[dict[str, Any]], object]


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


def cut_and_tell(world: World) -> None:
    cut_books(world, 2)
    cut_record(world, 2)


def rules(world: World, *witness_keys: str) -> set[str]:
    found = audit([world.run], witness_keys)
    words = {issue.rule for issue in (*found.findings, *found.unchecked)}
    assert found.clean == (not words)
    return words
