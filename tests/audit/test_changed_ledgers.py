"""Ledgers that were changed, cut, copied, exchanged or removed: every one is named.

Covers fedlite/audit/book.py, fedlite/audit/case.py.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy.ledger import Ledger, forget
from fedlite.privacy.ledger.files import Files
from fedlite.privacy.ledger.rows import row_message
from tests.audit.findings import found, noted
from tests.privacy.federation import RUN, Site, World, plan_body, policy_body


@pytest.mark.long
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
    # Rows hold whole seconds: within one the new genesis would be the old one, which is a fork.
    time.sleep(1)
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
