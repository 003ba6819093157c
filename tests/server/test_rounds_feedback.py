"""What was sent and used plus what is kept back is the sum of all deltas, over whole rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from clients.state import load
from fedlite import compression
from fedlite.messages import Instruction
from server import checkpoint
from tests.server.hostile import N, World


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 0.7])
def test_what_was_sent_and_used_plus_the_residual_is_the_sum_of_all_deltas(
    world: World, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    some = world(
        sites=4,
        # An update that waits to be judged would be seen as another's: each is added at once.
        federation={"rounds": 12, "participation": 0.75, "quorum": 2, "outlier_factor": 0.0},
        uplink={"aggregate_feedback": share},
    )
    rng = np.random.default_rng(5)
    for member in some.members:
        for number in range(1, 13):
            if rng.random() < 0.35:
                member.tricks[number] = lambda m, message, i: (m.honest(message, i), [])[1]
    rounds = some.rounds()
    used: dict[str, np.ndarray] = {m.site.name: np.zeros(N) for m in some.members}
    pending: dict[str, np.ndarray] = {}
    add, save = rounds.updates.add_many, checkpoint.save

    def watch(arrived: Any, aged: Any = None) -> Any:
        total = rounds.updates._strategy._sum  # type: ignore[union-attr]
        before = total.copy()
        # Each is added when it is asked for what is wrong with it, and not before.
        for (name, _), error in zip(arrived, add(arrived, aged), strict=True):
            pending[name] = total - before
            before = total.copy()
            yield error

    def settle(directory: Any, point: Any) -> None:
        for name, update in pending.items():
            if point.sites[name].acknowledged == point.round:
                used[name] += update
        pending.clear()
        save(directory, point)

    monkeypatch.setattr(rounds.updates, "add_many", watch)
    monkeypatch.setattr(checkpoint, "save", settle)
    some.play(rounds)
    # Both kinds of loss occurred: single replies, and whole rounds without a quorum.
    assert any(r.accepted == 0 for r in rounds.records)
    assert any(r.accepted and r.missing for r in rounds.records)
    for member in some.members:
        state = load(member.site.path)
        assert state is not None and state.pending is not None
        state.settle(rounds.point.sites[member.site.name].acknowledged)
        total = np.sum(list(member.learner.deltas.values()), axis=0, dtype=np.float64)
        np.testing.assert_allclose(used[member.site.name] + state.residual, total, atol=1e-4)


@pytest.mark.parametrize("down", ["topk", "dense"])
def test_what_sites_subtract_the_server_adds_again(world: World, down: str) -> None:
    """With a lossless way up nothing changes, also for sites that come rarely or forget."""

    def amnesia(member: Any, message: Message, i: Instruction) -> list[Message]:
        member.site.path.unlink(missing_ok=True)
        return [member.honest(message, i)]

    played = []
    for share in (0.0, 0.8):
        some = world(
            folder=f"{down}-{share}",
            sites=5,
            federation={"rounds": 12, "participation": 0.5},
            uplink={"compressor": "dense", "aggregate_feedback": share},
            downlink={"compressor": down},
        )
        some.members[1].tricks = dict.fromkeys((4, 7), amnesia)
        played.append(some.play())
        assert all(r.accepted == 3 and not r.dropped for r in played[-1].records)
        if share:
            pairs = [i for m in some.members for i in m.asked if i.round > 2 and len(i.frames) == 2]
            assert any(len(i.frames[0]) == 4 * N + compression.HEADER_BYTES for i in pairs)
    plain, shared = (run.point.state.model for run in played)
    np.testing.assert_allclose(shared, plain, atol=1e-5)


@pytest.mark.parametrize("down", ["topk", "dense", "eden"])
def test_a_round_that_changed_nothing_does_not_end_aggregate_feedback(
    world: World, down: str
) -> None:
    """The broadcast after it changes nothing, and sites must know that it was nothing."""
    silent: Any = lambda m, message, i: (m.honest(message, i), [])[1]  # noqa: E731
    some = world(
        sites=3,
        federation={"rounds": 6, "quorum": 2},
        uplink={"compressor": "dense", "aggregate_feedback": 1.0},
        downlink={"compressor": down, "density": 1.0, "values": "fp32"},
    )
    for member in some.members[:2]:
        member.tricks[1] = member.tricks[3] = silent
    records = some.play().records
    assert [r.accepted for r in records] == [0, 3, 0, 3, 3, 3]
    assert not any(r.dropped for r in records)


def test_sites_that_are_behind_get_the_chain_and_one_that_lost_its_model_gets_all(
    world: World,
) -> None:
    some = world(sites=4, federation={"rounds": 10, "participation": 0.5})
    lost = some.members[0]

    def amnesia(member: Any, message: Message, i: Instruction) -> list[Message]:
        member.site.path.unlink(missing_ok=True)
        return [member.honest(message, i)]

    lost.tricks = dict.fromkeys(range(3, 11), amnesia)
    played = some.play()
    assert all(r.accepted == 2 and not r.dropped and not r.missing for r in played.records)
    chains = [len(i.frames) for m in some.members[1:] for i in m.asked if i.round > 2]
    assert max(chains) > 1
    full = [i for i in lost.asked if len(i.frames) == 1 and len(i.frames[0]) == 4 * N + 28]
    assert full and all(lost.asked[lost.asked.index(i) - 1].round == i.round for i in full)
