"""Rounds: who is asked, when a run ends, and that a resumed run equals one that was not stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from fedlite.reporting.record import read_rounds
from server import checkpoint
from server.rounds import RunFailed
from tests.server.hostile import HOSTILE, N, World


def out_of_budget(member: Any, message: Message, instruction: Any) -> list[Message]:
    return [Message(Error(100, "fedlite:budget"), reply_to=message)]


def test_a_site_out_of_budget_is_not_asked_again_and_the_run_goes_on(world: World) -> None:
    some = world(sites=3, federation={"quorum": 2})
    some.members[0].tricks[2] = out_of_budget
    played = some.play()
    assert [r.dropped for r in played.records] == [{}, {"site-1": "budget"}, {}, {}]
    assert [r.accepted for r in played.records] == [3, 2, 2, 2]
    assert len(some.members[0].asked) == 2
    # It declined before it trained: that round did not cost it anything.
    assert played.point.sites["site-1"].asked == 1 and played.point.sites["site-2"].asked == 4
    # Its owner may have raised the ceiling before the run goes on.
    again = some.rounds()
    assert again.point.sites["site-1"].spent


def test_a_run_ends_in_order_when_too_few_sites_have_budget_left(world: World) -> None:
    some = world(sites=3, federation={"quorum": 2, "rounds": 9})
    some.members[0].tricks[2] = some.members[1].tricks[4] = out_of_budget
    played = some.play()
    assert [r.round for r in played.records] == [1, 2, 3, 4]
    assert [r.accepted for r in played.records] == [3, 2, 2, 0]
    assert played.point.round == 4


@pytest.mark.parametrize("quorum", [2, 3])
def test_too_few_updates_make_no_round_and_three_in_a_row_end_the_run(
    world: World, quorum: int
) -> None:
    some = world(federation={"quorum": quorum, "rounds": 20})
    for member in some.members[: 4 - quorum]:
        member.always = HOSTILE["garbage"]
    rounds = some.rounds()
    initial = rounds.point.state.model.copy()
    with pytest.raises(RunFailed, match=r"federation.quorum.*site-1 bad-update.*resume"):
        some.play(rounds)
    assert [r.accepted for r in read_rounds(some.directory)] == [0, 0, 0]
    saved = checkpoint.load(some.directory / "checkpoint")
    assert saved is not None and saved.round == 3
    np.testing.assert_array_equal(saved.state.model, initial)
    assert all(record.acknowledged == 0 for record in saved.sites.values())
    # Mended, the run goes on where it stopped.
    for member in some.members:
        member.always = None
    played = some.play()
    assert len(played.records) == 20 and played.records[3].accepted == 3


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_in_which_nothing_was_ever_accepted_fails(world: World, rounds: int) -> None:
    """It was over before three rounds in a row could end it, and told as done."""
    some = world(federation={"rounds": rounds})
    for member in some.members:
        member.always = HOSTILE["garbage"]
    why = "no update was ever accepted.*site-1 bad-update, site-2 bad-update.*begin anew"
    for _ in range(2):  # and again when it is resumed
        with pytest.raises(RunFailed, match=why):
            some.play()
        assert [r.accepted for r in read_rounds(some.directory)] == [0] * rounds


def test_one_update_in_the_whole_run_is_a_result(world: World) -> None:
    some = world(federation={"rounds": 2})
    for member in some.members:
        member.always = HOSTILE["garbage"]
    some.members[0].tricks = {1: lambda member, message, i: [member.honest(message, i)]}
    assert [r.accepted for r in some.play().records] == [1, 0]


def test_two_void_rounds_and_a_good_one_do_not_end_the_run(world: World) -> None:
    some = world(federation={"quorum": 3, "rounds": 6})
    some.members[0].tricks = dict.fromkeys((1, 2, 4, 5), HOSTILE["garbage"])
    played = some.play()
    assert [r.accepted for r in played.records] == [0, 0, 3, 0, 0, 3]


def test_bytes_in_the_record_are_the_bytes_on_the_grid(world: World) -> None:
    some = world(sites=4, federation={"rounds": 6, "participation": 0.75})
    some.members[0].tricks[3] = HOSTILE["too large"]
    some.members[1].tricks[4] = lambda m, message, i: (
        m.site.path.unlink(missing_ok=True),
        [m.honest(message, i)],
    )[1]
    some.play()
    rows = read_rounds(some.directory)
    assert [r.bytes_up for r in rows] == [some.grid.up[str(r.round)] for r in rows]
    assert [r.bytes_down for r in rows] == [some.grid.down[str(r.round)] for r in rows]
    assert all(r.dense_down >= 4 * N * 3 for r in rows)


@pytest.mark.parametrize("answering", [0, 1])
def test_fewer_sites_than_the_quorum_end_the_run_before_it_starts(
    world: World, answering: int
) -> None:
    some = world(federation={"quorum": 2})
    for member in some.members[answering:]:
        member.hello = None
    with pytest.raises(RunFailed, match=f"needs 2 sites, only {answering} can take part"):
        some.play()
    assert read_rounds(some.directory) == []


@pytest.mark.parametrize(
    ("share", "strategy"), [(0.0, "fedavg"), (0.5, "fedavg"), (0.0, "fedyogi")]
)
def test_a_run_stopped_after_any_round_and_resumed_equals_one_that_was_not(
    world: World, share: float, strategy: str
) -> None:
    tables: dict[str, Any] = {
        "sites": 4,
        "uplink": {"aggregate_feedback": share},
        "federation": {
            "rounds": 6,
            "participation": 0.5,
            "server_momentum": 0.9,
            "average_last": 0.6,
            "strategy": strategy,
        },
    }
    truth = world(folder="whole", **tables).play()
    some = world(folder="parts", **tables)
    for _ in range(6):
        some.interrupt()
    end = some.play()
    np.testing.assert_array_equal(end.point.state.model, truth.point.state.model)
    np.testing.assert_array_equal(end.point.state.released, truth.point.state.released)
    strip = [replace(r, seconds=0.0) for r in read_rounds(some.directory)]
    assert strip == [replace(r, seconds=0.0) for r in truth.records]


def test_a_record_that_lost_rounds_is_refused(world: World) -> None:
    some = world()
    some.play()
    path = some.directory / "rounds.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RunFailed, match=r"rounds.jsonl has 2 of the 4 rounds"):
        some.rounds()


def test_a_rule_that_leaves_the_numbers_is_to_blame_and_no_site(world: World) -> None:
    some = world(federation={"rounds": 2, "server_learning_rate": 1e30, "quorum": 1})
    with pytest.raises(
        RunFailed, match=r"server_learning_rate: 1e\+30 makes steps .*strategy 'fedavg'"
    ):
        some.play()
