"""What the server wrote down, forged, damaged or taken away: named.

Covers fedlite/audit/lines.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy.ledger import Ledger
from fedlite.privacy.ledger.rows import row_message
from tests.audit.findings import found
from tests.privacy.federation import Server, World


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


@pytest.mark.long
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
