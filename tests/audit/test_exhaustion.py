"""What is meant to exhaust whoever reads it."""

from __future__ import annotations

import os
import time

import pytest

from fedlite.audit import audit, book, lines
from fedlite.privacy.ledger.rows import decode
from fedlite.privacy.ledger.rules import LedgerError
from tests.audit.forging import rules
from tests.privacy.federation import Site, World, plan_body, policy_body


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
