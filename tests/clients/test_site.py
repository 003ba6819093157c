"""A site: nothing that it learned is lost, and it follows the server's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients.opening import open_simulated_site
from clients.state import load
from fedlite import compression
from fedlite.messages import Code, Instruction
from fedlite.parameters import Vector, vector_digest
from fedlite.scenario import from_dict
from server import broadcast
from tests.clients.stub import LAYOUT, RUN, N, StubLearner, decoded, invite, refused, scenario, site


def test_sent_plus_residual_is_the_sum_of_all_deltas_whatever_was_lost(tmp_path: Path) -> None:
    member = site(tmp_path)
    base = StubLearner.initial
    rng = np.random.default_rng(0)
    acknowledged, received = 0, np.zeros(N)
    for number in range(1, 31):
        payload = member.take_part(invite(number, base, acknowledged=acknowledged)).frame
        if rng.random() < 0.5:
            received += decoded(payload, number, base, member.scenario)
            acknowledged = number
        state = load(member.path)
        assert state is not None and state.pending is not None
        used = state.pending.round == acknowledged
        left = state.pending.residual if used else state.pending.unsent
        total = np.sum(member.learner.deltas, axis=0, dtype=np.float64)  # type: ignore[attr-defined]
        np.testing.assert_allclose(received + left, total, atol=1e-4)
    assert 5 < acknowledged and np.abs(left).max() > 0.1


def test_without_error_feedback_nothing_is_carried_over(tmp_path: Path) -> None:
    plan = scenario(uplink={"density": 0.05, "error_feedback": False})
    member = site(tmp_path, plan)
    base = StubLearner.initial
    for number in (1, 2, 3):
        payload = member.take_part(invite(number, base, acknowledged=number - 1)).frame
        sent = decoded(payload, number, base, plan)
        largest = np.argsort(-np.abs(member.learner.deltas[-1]))[:15]  # type: ignore[attr-defined]
        assert set(np.flatnonzero(sent)) == set(largest)
        state = load(member.path)
        assert state is not None and not state.residual.any()


def test_an_instruction_for_somebody_else_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    member = site(tmp_path)
    other = invite(1, StubLearner.initial, name="site-02")
    assert refused(member, other) is Code.BAD_INSTRUCTION
    assert not member.path.exists()


def test_a_site_that_is_behind_follows_the_chain_and_one_that_is_lost_asks(
    tmp_path: Path,
) -> None:
    sparse = compression.make("topk", density=0.05, values="sign")
    down = broadcast.initial(StubLearner.initial)
    rng = np.random.default_rng(1)
    model = StubLearner.initial
    for _ in range(4):
        down.advance(model, sparse, LAYOUT.digest, RUN)
        model = model + rng.normal(size=N).astype(np.float32)
    chain = down.frames_for(1, LAYOUT.digest, RUN)
    assert len(chain) == 3
    for folder, known in (("a", 0), ("b", 1), ("c", 2), ("d", 3)):
        member = site(tmp_path / folder)
        if known > 1:
            partial = broadcast.initial(StubLearner.initial)
            partial.frames = down.frames[: known - 1]
            # The site already has part of the chain that the server believes it lacks.
            middle = replay(partial.frames)
            member.take_part(
                Instruction(RUN, known, member.number, 0, vector_digest(middle), chain[: known - 1])
            )
        member.take_part(invite(4, down.replica, *chain))
        state = load(member.path)
        assert state is not None
        np.testing.assert_array_equal(state.replica, down.replica)
    lost = site(tmp_path / "lost")
    assert refused(lost, invite(4, down.replica, *chain[1:])) is Code.NEED_FULL_MODEL
    assert refused(lost, invite(4, down.replica)) is Code.NEED_FULL_MODEL
    assert not lost.path.exists()
    full = down.frames_for(None, LAYOUT.digest, RUN)
    lost.take_part(invite(4, down.replica, *full))
    state = load(lost.path)
    assert state is not None
    np.testing.assert_array_equal(state.replica, down.replica)


def replay(frames: list[tuple[int, bytes]]) -> Vector:
    compressor = compression.make("topk", density=0.05, values="sign")
    current = StubLearner.initial.copy()
    for number, frame in frames:
        envelope = compression.Envelope(RUN, number, 0, LAYOUT.digest, vector_digest(current))
        _, _, body = compression.unpack(frame, envelope, limit=compressor.limit(N))
        compressor.decompress(body, N).add_to(current, 1.0)
    return current


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"garbage",),
        (b"FL\x01\x00" + bytes(24),),
        (b"FL\x01\x01" + bytes(40),),
        (b"FL\x01\x00" + bytes(10_000),),
        tuple(b"x" for _ in range(9)),
    ],
)
def test_hostile_frames_change_nothing(tmp_path: Path, frames: tuple[bytes, ...]) -> None:
    member = site(tmp_path)
    wanted = np.zeros(N, np.float32)
    assert refused(member, invite(9, wanted, *frames)) is Code.NEED_FULL_MODEL
    assert not member.path.exists()


def test_the_record_count_leaves_only_when_the_scenario_says_so(tmp_path: Path) -> None:
    base = StubLearner.initial
    for weighting, expected in (("uniform", 0), ("records", 17)):
        plan = scenario(federation={"weighting": weighting})
        member = site(tmp_path / weighting, plan)
        payload = member.take_part(invite(1, base)).frame
        assert int.from_bytes(payload[20:24], "little") == expected


def test_a_simulated_site_holds_its_own_part(tmp_path: Path) -> None:
    plan = from_dict(
        {
            "federation": {"sites": 3, "rounds": 2},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
        }
    )
    members = [open_simulated_site(plan, index, tmp_path) for index in range(3)]
    assert [m.name for m in members] == ["site-01", "site-02", "site-03"]
    assert all(m.mechanism is None for m in members)
    hello = members[0].hello()
    assert hello.layout == members[1].learner.layout.digest.hex()
