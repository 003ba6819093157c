"""The server takes counts that a site can have, names the others, and goes on with the rest."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.counting import envelope_of
from fedlite import compression, flower
from fedlite.inference import told
from fedlite.inference.calibration import choose, pooled
from fedlite.inference.told import COARSE, Cells, cells_of, encode
from fedlite.messages import Code, Instruction
from server import counting
from server.rounds import Rounds
from tests.inference.test_calibration import counted
from tests.server.conftest import Member
from tests.server.hostile import World

Body = Callable[[Cells], bytes]


def honest(site: int) -> Cells:
    return cells_of(counted(np.random.default_rng(site), 100 + site))


def tells(member: Member, make: Callable[[Any, Instruction], list[Message] | bytes]) -> None:
    """Let a member answer the question for its counts with what `make` returns."""
    plain = member.reply

    def reply(message: Message) -> list[Message]:
        if message.metadata.message_type != "evaluate":
            return plain(message)
        made = make(member, Instruction.decode(flower.unwrap(message)))
        return [flower.answer(made, message)] if isinstance(made, bytes) else made

    member.reply = reply  # type: ignore[method-assign]


def frame(member: Any, asked: Instruction, body: bytes, records: int = 0, **changes: Any) -> bytes:
    envelope = envelope_of(member.site.plan, asked, member.site.number)
    return compression.pack(replace(envelope, **changes), told.CODEC, body, records)


def honestly(at: int) -> Callable[[Any, Instruction], bytes]:
    return lambda member, asked: frame(member, asked, encode(honest(at)))


def lies(make: Body, **changes: Any) -> Callable[[Any, Instruction], bytes]:
    return lambda member, asked: frame(member, asked, make(honest(1)), **changes)


def changed(change: Callable[[np.ndarray], None]) -> Body:
    def make(cells: Cells) -> bytes:
        counts = cells.counts.copy()
        change(counts)
        return encode(Cells(counts))

    return make


def _negative(counts: np.ndarray) -> None:
    counts[0, 5] = -1


def _more_harmed(counts: np.ndarray) -> None:
    # 50 more are harmed than leave early at some threshold.
    counts[0, 3] -= counts[0, :4].sum() + 50


def _falling(counts: np.ndarray) -> None:
    counts[1, 20] = -5


def _far_too_many(counts: np.ndarray) -> None:
    counts[0, 0] = 2**31 - 1


def _more_than_announced(counts: np.ndarray) -> None:
    counts[0, 0] += 1000


def _nan(cells: Cells) -> bytes:
    return encode(cells)[:3] + np.full(cells.counts.size, np.nan, "<f4").tobytes()


HOSTILE: dict[str, Callable[[Any, Instruction], bytes]] = {
    "a shorter grid": lies(lambda c: struct.pack("<BH", 0, 117) + encode(c)[11:]),
    "another grid": lies(lambda c: struct.pack("<BH", 0, 117) + encode(c)[3:]),
    "a coarse grid, as if noised": lies(lambda c: encode(Cells(c.counts[:, : len(COARSE)], 1.0))),
    "negative": lies(changed(_negative)),
    "falling": lies(changed(_falling)),
    "more harmed than counted": lies(changed(_more_harmed)),
    "far too many": lies(changed(_far_too_many)),
    "more than it announced": lies(changed(_more_than_announced)),
    "NaN": lies(_nan),
    "doubles": lies(lambda c: encode(c)[:3] + c.counts.astype("<f8").tobytes()),
    "empty": lambda member, asked: b"",
    "garbage": lambda member, asked: b"\xff" * 975,
    "huge": lambda member, asked: b"FL" + bytes(3_000_000),
    "a record count": lies(encode, records=7),
    "another site's": lies(encode, site=1),
    "another run's": lies(encode, run=b"another!"),
    "another round's": lies(encode, round=4),
    "another model's": lies(encode, base=b"12345678"),
    "another layout's": lies(encode, layout=b"12345678"),
    "an update": lambda member, asked: compression.pack(
        envelope_of(member.site.plan, asked, member.site.number), 0, bytes(16)
    ),
    "a head without a ledger": lambda member, asked: (
        b"FH\x01\x00" + bytes(100) + frame(member, asked, encode(honest(1)))
    ),
}
COUNTING = {"inference": {"calibration": 0.3}}


def asked(rounds: Rounds) -> counting.Counts:
    return counting.ask(rounds, None, lambda *given, **facts: None)


def played(world: World, sites: int = 3, **tables: Any) -> Any:
    some = world(sites=sites, **COUNTING | tables)
    for at, member in enumerate(some.members):
        tells(member, honestly(at))
    return some


def test_what_sites_told_is_what_their_records_together_give(world: World) -> None:
    some = played(world)
    found = asked(some.play())
    assert sorted(found.cells) == ["site-1", "site-2", "site-3"]
    whole = told.together(found.cells.values())
    expected = sum(honest(at).counts for at in range(3))
    np.testing.assert_array_equal(whole.counts, expected)
    assert found.told()["bytes"]["up"] == 3 * (28 + 947) and not found.dropped


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_no_sites_counts_is_dropped_and_named(world: World, how: str) -> None:
    some = played(world, federation={"weighting": "records"})
    tells(some.members[1], HOSTILE[how])
    rounds = some.play()
    rounds.point.sites["site-2"].records = 20
    found = asked(rounds)
    assert found.dropped == {"site-2": Code.BAD_UPDATE.value}
    assert sorted(found.cells) == ["site-1", "site-3"] and not found.missing


def test_absent_silent_and_declining_sites_are_named(world: World) -> None:
    some = played(world, sites=5)
    rounds = some.play()
    plain = some.members[0].reply
    some.members[0].reply = lambda message: (
        [flower.decline(Code.POLICY, message)]
        if message.metadata.message_type == "evaluate"
        else plain(message)
    )
    tells(some.members[1], lambda member, asked: [])
    some.grid.members.pop(102)
    found = asked(rounds)
    assert found.dropped == {"site-1": "policy"} and sorted(found.missing) == ["site-2", "site-3"]
    assert sorted(found.cells) == ["site-4", "site-5"]


def test_a_second_answer_counts_for_nothing(world: World) -> None:
    some = played(world, sites=2)
    plain = some.members[0].reply

    def twice(message: Message) -> list[Message]:
        first = plain(message)
        if message.metadata.message_type != "evaluate":
            return first
        asked = Instruction.decode(flower.unwrap(message))
        again = encode(Cells(honest(0).counts * 3))
        return [*first, flower.answer(frame(some.members[0], asked, again), message)]

    some.members[0].reply = twice
    found = asked(some.play())
    np.testing.assert_array_equal(found.cells["site-1"].counts, honest(0).counts)


def test_where_the_sites_alone_hold_records_the_summary_has_what_they_told(world: World) -> None:
    some = played(world)
    tells(some.members[1], HOSTILE["negative"])
    rounds = some.play()
    part = counting.inference_of(rounds, asked(rounds), held=False)
    whole = cells_of(pooled([counted(np.random.default_rng(at), 100 + at) for at in (0, 2)]))
    chosen = choose(whole.plain(), 0.01, 0.95)
    assert (part["threshold"], part["records"]) == (chosen.threshold, whole.total)
    assert part["told"]["sites"] == ["site-1", "site-3"]
    assert part["told"]["dropped"] == {"site-2": "bad-update"}
    assert "accuracy" not in part and sorted(part["by_site"]) == ["site-1", "site-2", "site-3"]


def test_nobody_left_is_no_error(world: World) -> None:
    some = played(world)
    rounds = some.play()
    some.grid.members.clear()
    found = asked(rounds)
    assert not found.cells and len(found.missing) == 3


def test_no_count_stands_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    some = played(world)
    tells(some.members[0], HOSTILE["negative"])
    with caplog.at_level("DEBUG", "fedlite.server"):
        found = asked(some.play())
    text = " ".join(record.getMessage() for record in caplog.records)
    assert "site-1: its counts were dropped (bad-update)" in text
    for cells in found.cells.values():
        assert str(cells.total) not in text
