from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.opening import open_simulated_site
from clients.site import Decline, Site
from clients.state import load
from fedlite import compression
from fedlite.guard.folder import open_home
from fedlite.guard.policy import SitePolicy, for_scenario
from fedlite.guard.policy_file import write
from fedlite.identity import keys
from fedlite.messages import Code, Instruction, Receipt, site_id
from fedlite.parameters import LARGEST_DELTA, LARGEST_WEIGHT, Layout, Vector, vector_digest
from fedlite.plan import Plan, compressor as compressor_of
from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import read
from fedlite.privacy.ledger.rows import witness_message
from fedlite.scenario import Scenario, from_dict
from server import broadcast

N, RUN = 300, b"run-0001"
LAYOUT = Layout(("w",), ((N,),))
MECHANISM = RecordMechanism(1.0, 1.0, 1.0, steps=4, expected_batch=1)


class StubLearner:
    """Deltas from nothing but round and site; the same numbers each time."""

    layout = LAYOUT
    initial = np.linspace(-1, 1, N).astype(np.float32)
    labels = np.zeros(17)

    def __init__(self) -> None:
        self.deltas: list[Vector] = []
        self.failing = False

    def delta(self, received: Vector, number: int, site: int, mechanism: Any) -> Vector:
        if self.failing:
            raise RuntimeError("power cut")
        rng = np.random.default_rng([number, site, len(self.deltas)])
        self.deltas.append(rng.normal(size=N).astype(np.float32))
        return self.deltas[-1]


def scenario(**tables: dict[str, Any]) -> Scenario:
    return from_dict({"uplink": {"density": 0.05}, "downlink": {"density": 0.05}} | tables)


def site(tmp_path: Path, plan: Scenario | None = None, mechanism: Any = None) -> Site:
    learner: Any = StubLearner()
    return Site(stub(plan or scenario(), mechanism), "site-01", learner, tmp_path / "s.safetensors")


def stub(settings: Scenario, mechanism: Any = None) -> Plan:
    return Plan(settings, (N,), 2, LAYOUT, StubLearner.initial, mechanism)


def invite(
    number: int, base: Vector, *frames: bytes, acknowledged: int = 0, name: str = "site-01"
) -> Instruction:
    return Instruction(RUN, number, site_id(name), acknowledged, vector_digest(base), frames)


def decoded(payload: bytes, number: int, base: Vector, plan: Scenario) -> np.ndarray:
    link = plan.uplink
    compressor = compressor_of(link)
    envelope = compression.Envelope(
        RUN, number, site_id("site-01"), LAYOUT.digest, vector_digest(base), plan.federation.seed
    )
    padded = plan.noised_at_server
    limit = compressor.limit(N) + compression.PAD_BYTES * padded
    _, _, body = compression.unpack(payload, envelope, limit=limit)
    body = compression.unpad(body) if padded else body
    return compressor.decompress(body, N).dense()


def refused(site: Site, instruction: Instruction) -> Code:
    with pytest.raises(Decline) as caught:
        site.take_part(instruction)
    return caught.value.code


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


def spent(member: Site) -> tuple[int, int]:
    """Return steps reserved and updates released, as the ledger has them."""
    assert member.home is not None
    rows = read(member.home.ledger)
    reserved = sum(row.body["steps"] for row in rows if row.kind == "reserve")
    return reserved, sum(row.kind == "release" for row in rows)


def private(tmp_path: Path, steps: int) -> Site:
    """Return a site whose plan has four steps, with a ledger in `tmp_path`."""
    plan = scenario(
        federation={"rounds": 4 // steps},
        training={"steps": steps},
        privacy={"unit": "record", "epsilon": 90.0, "expected_batch": 1},
    )
    home = open_home(tmp_path / "home", "site-01", "digits", for_scenario(plan, "site-01"))
    member = site(tmp_path, plan, MECHANISM)
    return replace(member, home=home, commitment="ab" * 32)


def test_a_repeated_message_gets_the_same_frame_and_spends_nothing(tmp_path: Path) -> None:
    member = private(tmp_path, steps=1)
    instruction = invite(1, StubLearner.initial)
    first = member.take_part(instruction)
    assert first.head is not None and first.head.ledger
    before = member.path.read_bytes()
    assert member.take_part(instruction) == first
    assert private(tmp_path, steps=1).take_part(instruction) == first
    assert member.path.read_bytes() == before
    assert spent(member) == (1, 1)
    assert len(member.learner.deltas) == 1  # type: ignore[attr-defined]


def test_steps_are_on_disk_before_the_first_is_taken_and_end_with_the_plan(
    tmp_path: Path,
) -> None:
    member = private(tmp_path, steps=2)
    base = StubLearner.initial
    member.learner.failing = True  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="power cut"):
        member.take_part(invite(1, base))
    assert spent(member) == (2, 0)
    # A crash costs that round's steps: a restarted site has one round left, not two.
    again = private(tmp_path, steps=2)
    again.take_part(invite(1, base))
    before = again.path.read_bytes()
    assert refused(again, invite(2, base, acknowledged=1)) is Code.BUDGET
    assert again.path.read_bytes() == before
    assert spent(again) == (4, 1)
    assert len(again.learner.deltas) == 1  # type: ignore[attr-defined]
    assert again.take_part(invite(1, base))


def test_an_update_that_was_stored_but_not_yet_recorded_is_recorded_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, instruction = private(tmp_path, steps=1), invite(1, StubLearner.initial)
    with monkeypatch.context() as patch:
        patch.setattr(Budget, "release", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            member.take_part(instruction)
    assert spent(member) == (1, 0)
    reply = member.take_part(instruction)
    assert spent(member) == (1, 1) and reply.head is not None
    assert len(member.learner.deltas) == 1  # type: ignore[attr-defined]


def test_a_private_site_without_a_ledger_does_not_train(tmp_path: Path) -> None:
    member = replace(private(tmp_path, steps=1), home=None)
    assert refused(member, invite(1, StubLearner.initial)) is Code.CONFIG
    assert not member.learner.deltas  # type: ignore[attr-defined]


@pytest.mark.parametrize(("units", "private_run"), [(("record",), False), (("none",), True)])
def test_a_unit_that_the_policy_does_not_allow_is_declined_before_training(
    tmp_path: Path, units: tuple[str, ...], private_run: bool
) -> None:
    member = private(tmp_path, steps=1)
    assert member.home is not None
    write(member.home.path / "site.toml", SitePolicy(site="site-01", units=units))
    if not private_run:
        member = replace(member, plan=stub(scenario()))
    assert refused(member, invite(1, StubLearner.initial)) is Code.POLICY
    assert not member.home.ledger.exists() if member.home else True
    assert not member.learner.deltas  # type: ignore[attr-defined]


def test_a_server_that_has_seen_more_than_the_site_has_stops_it(tmp_path: Path) -> None:
    member, base = private(tmp_path, steps=1), StubLearner.initial
    server = keys.generate(tmp_path / "server.pem")

    def receipt(seq: int, digest: str) -> Receipt:
        assert member.home is not None
        ledger = read(member.home.ledger)[0].hash
        signature = keys.sign(server, witness_message(ledger, seq, digest))
        return Receipt(bytes.fromhex(keys.public_hex(server)), seq, bytes.fromhex(signature))

    first = member.take_part(invite(1, base)).head
    assert first is not None
    good = receipt(first.seq, first.hash.hex())
    later = replace(invite(2, base, acknowledged=1), receipt=good)
    second = member.take_part(later).head
    # The server has shown that it knows the ledger, so its names are not sent again.
    assert second is not None and second.seq > first.seq and not second.ledger
    spent_before = spent(member)
    for seq, digest in ((second.seq + 1, second.hash.hex()), (first.seq, "00" * 32)):
        asked = replace(invite(3, base, acknowledged=2), receipt=receipt(seq, digest))
        assert refused(member, asked) is Code.LEDGER
    assert spent(member) == spent_before


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


def test_what_a_clear_round_left_over_never_enters_a_private_update(tmp_path: Path) -> None:
    """A server that reuses a run's id cannot have the clear delta sent as a private one."""
    base = StubLearner.initial
    clear = replace(private(tmp_path, steps=1), plan=stub(scenario()))
    assert clear.home is not None
    write(clear.home.path / "site.toml", SitePolicy(site="site-01", units=("none",)))
    clear.take_part(invite(1, base))
    (left,) = clear.learner.deltas  # type: ignore[attr-defined]
    write(clear.home.path / "site.toml", SitePolicy(site="site-01", epsilon=90.0))
    member = private(tmp_path, steps=1)
    member.take_part(invite(2, base))
    state = load(member.path)
    assert state is not None and state.pending is not None
    (noised,) = member.learner.deltas  # type: ignore[attr-defined]
    np.testing.assert_array_equal(state.pending.unsent, noised)
    assert not np.allclose(state.pending.unsent, noised + left)


def test_other_records_may_not_go_on_with_a_run(tmp_path: Path) -> None:
    base, other = StubLearner.initial, "cd" * 32
    before = private(tmp_path, steps=1)
    before.take_part(invite(1, base))
    kept = before.path.read_bytes()
    member = replace(private(tmp_path, steps=1), commitment=other)
    # Neither the next round nor the same one again: the frame that is kept is of other records.
    for number in (2, 1):
        with pytest.raises(Decline, match=r"not those that this run began with") as e:
            member.take_part(invite(number, base))
        assert e.value.code is Code.DATA
    assert member.path.read_bytes() == kept and spent(member) == (1, 1)
    assert private(tmp_path, steps=1).take_part(invite(2, base, acknowledged=1))


@pytest.mark.parametrize("is_private", [False, True])
def test_a_crash_in_the_first_training_pins_the_records_too(
    tmp_path: Path, is_private: bool
) -> None:
    base = StubLearner.initial
    member = private(tmp_path, steps=1)
    if not is_private:
        member = replace(member, plan=stub(scenario()), home=None)
    member.learner.failing = True  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="power cut"):
        member.take_part(invite(1, base))
    member.learner.failing = False  # type: ignore[attr-defined]
    assert refused(replace(member, commitment="cd" * 32), invite(1, base)) is Code.DATA
    assert not member.learner.deltas  # type: ignore[attr-defined]
    assert member.take_part(invite(1, base))


def test_another_plan_begins_without_a_residual(tmp_path: Path) -> None:
    base = StubLearner.initial
    private(tmp_path, steps=1).take_part(invite(1, base))
    member = private(tmp_path, steps=1)
    tighter = scenario(
        federation={"rounds": 4},
        training={"steps": 1},
        privacy={"unit": "record", "epsilon": 90.0, "expected_batch": 1},
        uplink={"density": 0.06},
    )
    member = replace(member, plan=replace(member.plan, scenario=tighter))
    member.take_part(invite(2, base))
    state = load(member.path)
    assert state is not None and state.pending is not None
    np.testing.assert_array_equal(
        state.pending.unsent,
        member.learner.deltas[0],  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e26, -1.01 * LARGEST_DELTA])
def test_a_diverged_delta_is_refused_and_nothing_of_it_is_kept(
    tmp_path: Path, value: float
) -> None:
    member = site(tmp_path)
    base = StubLearner.initial
    member.take_part(invite(1, base))
    before = member.path.read_bytes()
    honest = member.learner.delta
    member.learner.delta = lambda *a: np.full(N, value, np.float32)  # type: ignore[method-assign]
    assert refused(member, invite(2, base, acknowledged=1)) is Code.DATA
    assert member.path.read_bytes() == before
    member.learner.delta = honest  # type: ignore[method-assign]
    member.take_part(invite(3, base, acknowledged=1))
    state = load(member.path)
    assert state is not None and state.pending is not None
    assert np.abs(state.pending.unsent).max() < 100


@pytest.mark.parametrize("value", [np.nan, 1e26])
def test_a_site_whose_clear_update_diverged_is_heard_where_the_server_adds_the_noise(
    tmp_path: Path, value: float
) -> None:
    """Who sends is public there: whether it does may not hang on the site's records."""
    plan = scenario(
        federation={"rounds": 4},
        privacy={"unit": "client", "noise_at": "server", "epsilon": 90.0, "clip": 1.0},
        uplink={"compressor": "dense", "error_feedback": False},
    )
    home = open_home(tmp_path / "home", "site-01", "digits", for_scenario(plan, "site-01"))
    member = site(tmp_path, plan, ClientMechanism(1.0, 1.0, steps=4, at="server"))
    member = replace(member, home=home, commitment="ab" * 32)
    member.learner.delta = lambda *a: np.full(N, value, np.float32)  # type: ignore[method-assign]
    payload = member.take_part(invite(1, StubLearner.initial)).frame
    assert not decoded(payload, 1, StubLearner.initial, plan).any()


def test_a_delta_at_the_bound_is_sent(tmp_path: Path) -> None:
    member = site(tmp_path)
    edge = np.full(N, LARGEST_DELTA, np.float32)
    member.learner.delta = lambda *a: edge  # type: ignore[method-assign]
    payload = member.take_part(invite(1, StubLearner.initial)).frame
    sent = decoded(payload, 1, StubLearner.initial, member.scenario)
    assert sent.max() == pytest.approx(LARGEST_DELTA)


def test_what_a_server_may_ask_for_is_bounded_by_the_plan(tmp_path: Path) -> None:
    member = site(tmp_path, scenario(federation={"rounds": 6}))
    base = StubLearner.initial
    frames = [b"FL" + bytes(40)] * 7
    assert refused(member, invite(6, base, *frames)) is Code.BAD_INSTRUCTION
    assert refused(member, invite(7, base)) is Code.BAD_INSTRUCTION
    assert refused(member, invite(1, base, *frames[:2])) is Code.BAD_INSTRUCTION
    assert not member.path.exists()
    assert member.take_part(invite(6, base)).frame


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.01 * LARGEST_WEIGHT, 3e38])
def test_a_model_with_absurd_weights_is_refused_before_a_record_is_touched(
    tmp_path: Path, value: float
) -> None:
    member = private(tmp_path, steps=1)
    hostile = StubLearner.initial.copy()
    hostile[7] = value
    code = refused(member, invite(2, hostile, full_model(hostile)))
    # The codec has no word for what is not finite: such a frame leads to no model at all.
    assert code is (Code.BAD_INSTRUCTION if np.isfinite(value) else Code.NEED_FULL_MODEL)
    assert not member.learner.deltas and not member.path.exists()  # type: ignore[attr-defined]
    assert member.home is not None and not member.home.ledger.exists(), "nothing was spent"
    hostile[7] = LARGEST_WEIGHT
    assert member.take_part(invite(2, hostile, full_model(hostile))).frame


def full_model(model: Vector) -> bytes:
    """Return the frame of round 2 that is this whole model, whatever is in it."""
    envelope = compression.Envelope(RUN, 2, 0, LAYOUT.digest, bytes(8))
    return compression.pack(envelope, compression.Dense().codec, model.astype("<f4").tobytes(), 0)


def test_a_chain_that_adds_up_to_infinity_is_not_taken(tmp_path: Path) -> None:
    plan = scenario(downlink={"density": 0.05, "values": "fp32"})
    member = site(tmp_path, plan)
    base = np.full(N, 3e38, np.float32)
    dense, sparse = compression.Dense(), compressor_of(plan.downlink)
    full = compression.Envelope(RUN, 4, 0, LAYOUT.digest, bytes(8))
    step = compression.Envelope(RUN, 5, 0, LAYOUT.digest, vector_digest(base))
    body = sparse.compress(base, step.context)
    end = base.copy()
    with np.errstate(over="ignore"):
        sparse.decompress(body, N, step.context).add_to(end, 1.0)
    frames = (
        compression.pack(full, dense.codec, dense.compress(base)),
        compression.pack(step, sparse.codec, body),
    )
    assert np.isinf(end).any()
    assert refused(member, invite(5, end, *frames)) is Code.NEED_FULL_MODEL
    assert not member.path.exists()
