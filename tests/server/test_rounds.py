from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from clients.state import load
from fedlite import compression, flower
from fedlite.messages import Code, Instruction, LedgerHead, Reply
from fedlite.parameters import LARGEST_UPDATE
from fedlite.plan import compressor as compressor_of
from fedlite.privacy import ClientMechanism
from fedlite.reporting.record import read_rounds
from server import checkpoint
from server.rounds import RunFailed
from server.updates import Updates
from server.witness import Witness

World = Callable[..., Any]
N = 400
INITIAL = np.linspace(-1, 1, N).astype(np.float32)


def frame(member: Any, instruction: Instruction, **changes: Any) -> bytes:
    """Return a valid-looking update with some field changed."""
    link = member.site.scenario.uplink
    compressor = compressor_of(link)
    values = changes.pop("values", np.ones(N, np.float32))
    records = changes.pop("records", 0)
    codec = changes.pop("codec", compressor.codec)
    envelope = compression.Envelope(
        run=instruction.run,
        round=instruction.round,
        site=member.site.number,
        layout=member.learner.layout.digest,
        base=instruction.model,
    )
    body = changes.pop("body", None) or compressor.compress(values)
    return compression.pack(replace(envelope, **changes), codec, body, records)


def says(make: Callable[[Any, Instruction], bytes]) -> Callable[..., list[Message]]:
    return lambda member, message, i: [flower.answer(make(member, i), message)]


def raw(content: RecordDict) -> Callable[..., list[Message]]:
    return lambda member, message, i: [Message(content, reply_to=message)]


def nan_body(member: Any, instruction: Instruction) -> bytes:
    good = frame(member, instruction)
    body = bytearray(good[compression.HEADER_BYTES :])
    body[:4] = np.array([np.nan], "<f4").tobytes()
    return frame(member, instruction, body=bytes(body))


HOSTILE: dict[str, Callable[..., list[Message]]] = {
    "empty": says(lambda m, i: b""),
    "garbage": says(lambda m, i: b"\xff" * 60),
    "truncated": says(lambda m, i: frame(m, i)[:-3]),
    "too long": says(lambda m, i: frame(m, i) + b"x"),
    "too large": says(lambda m, i: b"FL" + bytes(3_000_000)),
    "flipped bit": says(lambda m, i: frame(m, i)[:-1] + b"\x55"),
    "replayed round": says(lambda m, i: frame(m, i, round=i.round - 1)),
    "future round": says(lambda m, i: frame(m, i, round=i.round + 1)),
    "another site's": says(lambda m, i: frame(m, i, site=m.site.number ^ 1)),
    "another run's": says(lambda m, i: frame(m, i, run=b"another!")),
    "another base": says(lambda m, i: frame(m, i, base=b"12345678")),
    "another layout": says(lambda m, i: frame(m, i, layout=b"12345678")),
    "another codec": says(lambda m, i: frame(m, i, codec=9)),
    "dense codec": says(lambda m, i: frame(m, i, codec=0, body=bytes(4 * N))),
    "NaN": says(nan_body),
    "huge": says(lambda m, i: frame(m, i, values=np.full(N, 2e15, np.float32))),
    "no record": raw(RecordDict()),
    "text": raw(RecordDict({"fedlite": ConfigRecord({"blob": "text"})})),
    "two records": raw(
        RecordDict({"fedlite": ConfigRecord({"blob": b"x"}), "x": ConfigRecord({"y": 1})})
    ),
    "an array": raw(
        RecordDict(
            {"fedlite": ArrayRecord({"blob": Array("uint8", (1,), "numpy.ndarray", b"junk")})}
        )
    ),
    "a lying array": raw(
        RecordDict({"fedlite": ArrayRecord({"blob": Array("f4", (9,), flower.STYPE, b"junk")})})
    ),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_reply_is_dropped_counted_and_named(world: World, name: str) -> None:
    honest = world(folder="honest", sites=2)
    hostile = world(folder="hostile", sites=3)
    hostile.members[2].always = HOSTILE[name]
    truth = honest.play()
    played = hostile.play()
    for record in played.records:
        assert record.dropped == {"site-3": "bad-update"}
        assert record.missing == [] and record.accepted == 2
    np.testing.assert_array_equal(played.point.state.model, truth.point.state.model)
    assert played.point.sites["site-3"].used == 0
    assert played.point.sites["site-3"].acknowledged == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Error(100, "fedlite:data"), "data"),
        (Error(100, "fedlite:policy"), "policy"),
        (Error(100, "fedlite:nonsense\nname: value"), "failed"),
        (Error(2, "Traceback: patient 4711"), "failed"),
        (Error(0), "failed"),
    ],
)
def test_an_error_message_is_a_code_and_its_text_is_not_recorded(
    world: World, error: Error, code: str
) -> None:
    some = world()
    some.members[0].always = lambda member, message, i: [Message(error, reply_to=message)]
    played = some.play()
    assert all(r.dropped == {"site-1": code} for r in played.records)
    assert "4711" not in (some.directory / "rounds.jsonl").read_text()


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


def test_the_server_bounds_sums_and_noises_what_clients_send(world: World) -> None:
    """The model moves by (sum of updates cut to the clip + noise) / planned sites."""
    quiet = ClientMechanism(clip=0.5, noise_multiplier=1e-6, steps=4, at="server")
    tables = {
        "uplink": {"compressor": "dense", "error_feedback": False},
        "downlink": {"compressor": "dense"},
        "privacy": {"unit": "client", "noise_at": "server", "clip": 0.5, "simulate_seed": 1},
        "federation": {"rounds": 1},
    }
    some = world(sites=4, **tables)
    some.members[3].always = lambda *_: []
    played = some.play(some.rounds(central=quiet))
    moved = (played.point.state.model - INITIAL).astype(np.float64)
    deltas = [m.learner.deltas[1] for m in some.members[:3]]
    cut = [d * min(1.0, 0.5 / np.linalg.norm(d)) for d in deltas]
    # Divided by the four that were planned, though three answered.
    np.testing.assert_allclose(moved, np.sum(cut, axis=0) / 4, atol=1e-6)

    loud = ClientMechanism(clip=0.5, noise_multiplier=40.0, steps=4, at="server")
    noisy = world(folder="noisy", sites=4, **tables)
    noisy.members[3].always = lambda *_: []
    played = noisy.play(noisy.rounds(central=loud))
    noise = played.point.state.model - INITIAL - moved
    assert noise.std() == pytest.approx(40 * 0.5 / 4, rel=6 / np.sqrt(2 * N))


def test_clear_updates_have_one_length_whatever_was_selected(world: World) -> None:
    """Their positions take more or fewer bytes, and the record of a run tells how many came."""
    some = world(
        sites=4,
        uplink={"compressor": "topk", "density": 0.2, "error_feedback": False},
        privacy={"unit": "client", "noise_at": "server", "clip": 0.5, "simulate_seed": 1},
        federation={"rounds": 3},
    )
    plan = ClientMechanism(clip=0.5, noise_multiplier=2.0, steps=4, at="server")
    lengths, add = [], Updates.add

    def counting(updates: Updates, name: str, blob: bytes) -> None:
        lengths.append(len(blob))
        add(updates, name, blob)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "add", counting)
        played = some.play(some.rounds(central=plan))
    assert len(lengths) == 12 and len(set(lengths)) == 1
    assert {r.bytes_up for r in played.records} == {4 * lengths[0]}
    assert all(r.accepted == 4 for r in played.records)


def test_a_head_is_remembered_and_a_reply_without_one_is_dropped(
    world: World, tmp_path: Path
) -> None:
    some = world(sites=2, federation={"rounds": 2})
    witness = Witness(some.directory, tmp_path / "witness.pem")
    # These sites keep no ledgers, so that nothing is ever accepted.
    with pytest.raises(RunFailed, match=r"no update was ever accepted.*site-1 ledger"):
        some.play(some.rounds(witness=witness))
    assert [r.dropped for r in read_rounds(some.directory)] == [
        dict.fromkeys(("site-1", "site-2"), "ledger")
    ] * 2
    rows = [json.loads(x) for x in (some.directory / "witness.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["why"], r["round"]) for r in rows[:2]] == [("refused", "missing", 1)] * 2


def test_a_head_in_a_run_without_privacy_is_refused(world: World) -> None:
    some = world(sites=2, federation={"rounds": 1})

    def boast(member: Any, message: Message, instruction: Any) -> list[Message]:
        reply = member.site.take_part(instruction)
        head = LedgerHead(3, bytes(32), bytes(64), bytes(32), bytes(32))
        return [flower.answer(Reply(reply.frame, head).encode(), message)]

    some.members[1].always = boast
    assert some.play().records[0].dropped == {"site-2": "bad-update"}


def test_duplicate_replies_count_once(world: World) -> None:
    truth = world(folder="a").play()
    some = world(folder="b")
    some.members[1].always = lambda member, message, i: [
        member.honest(message, i),
        member.honest(message, i),
        flower.answer(b"and more", message),
    ]
    played = some.play()
    assert all(r.accepted == 3 and not r.dropped for r in played.records)
    np.testing.assert_array_equal(played.point.state.model, truth.point.state.model)
    assert [r.bytes_up for r in played.records] == [r.bytes_up for r in truth.records]


def test_asking_twice_for_the_full_model_is_answered_once(world: World) -> None:
    some = world()
    some.members[0].tricks[2] = lambda member, message, i: [
        flower.decline(Code.NEED_FULL_MODEL, message),
        flower.decline(Code.NEED_FULL_MODEL, message),
    ]
    played = some.play()
    # Invited, invited again with the full model, and dropped when that is not enough either.
    assert sum(i.round == 2 for i in some.members[0].asked) == 2
    assert played.records[1].dropped == {"site-1": "need-full-model"}
    assert played.records[1].accepted == 2 and played.records[2].accepted == 3


def test_a_reply_that_flower_cannot_read_does_not_stop_the_run(world: World) -> None:
    some = world()

    def poison(member: Any, message: Message, i: Instruction) -> list[Message]:
        some.grid.poisoned.add(message.metadata.message_id)
        return []

    some.members[1].always = poison
    played = some.play()
    assert all(r.missing == ["site-2"] and r.accepted == 2 for r in played.records)


def test_a_message_that_flower_does_not_take_is_a_missing_reply(world: World) -> None:
    some = world()
    rounds = some.rounds()
    rounds.roster.gather()
    some.grid.refuse_to_push.add(101)
    played = some.play(rounds)
    assert all(r.missing == ["site-2"] and r.accepted == 2 for r in played.records)


def test_a_silent_site_costs_the_deadline_and_no_more(world: World) -> None:
    some = world(federation={"rounds": 3})
    some.members[0].tricks[2] = lambda member, message, i: []
    started = time.monotonic()
    played = some.play()
    assert [r.missing for r in played.records] == [[], ["site-1"], []]
    assert [r.accepted for r in played.records] == [3, 2, 3]
    assert 0.3 <= time.monotonic() - started < 3.0


def test_a_late_reply_is_not_used_in_another_round(world: World) -> None:
    some = world()
    late: list[Message] = []

    def keep(member: Any, message: Message, i: Instruction) -> list[Message]:
        late.append(member.honest(message, i))
        return []

    some.members[0].tricks = {
        1: keep,
        2: lambda member, message, i: [late[0], member.honest(message, i)],
    }
    played = some.play()
    assert played.records[0].missing == ["site-1"]
    assert played.records[1].accepted == 3


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


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_what_was_sent_and_used_plus_the_residual_is_the_sum_of_all_deltas(
    world: World, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    some = world(
        sites=4,
        federation={"rounds": 12, "participation": 0.75, "quorum": 2},
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
    use, save = rounds._use, checkpoint.save

    def watch(name: str, number: int, blob: bytes, outcome: Any) -> None:
        before = rounds.updates._strategy._sum.copy()  # type: ignore[attr-defined]
        use(name, number, blob, outcome)
        pending[name] = rounds.updates._strategy._sum - before  # type: ignore[attr-defined]

    def settle(directory: Any, point: Any) -> None:
        for name, update in pending.items():
            if point.sites[name].acknowledged == point.round:
                used[name] += update
        pending.clear()
        save(directory, point)

    monkeypatch.setattr(rounds, "_use", watch)
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


@pytest.mark.parametrize("size", [3.0e38, -3.0e38, 1.0e26, 1.1 * LARGEST_UPDATE])
@pytest.mark.parametrize("up", ["topk", "eden", "rotated-topk", "randk", "dense"])
def test_a_huge_update_is_dropped_and_its_sender_named_in_every_round(
    world: World, size: float, up: str
) -> None:
    some = world(uplink={"compressor": up, "values": "fp32"})
    exact = compression.Dense().compress(np.full(N, size, np.float32))
    body = None if up != "dense" else exact
    if abs(size) > 1e25 and up in ("eden", "rotated-topk", "randk"):
        # The compressor refuses to write it, so the site sends what another plan would have.
        body = exact
    some.members[0].always = says(
        lambda m, i: frame(m, i, values=np.full(N, size, np.float32), body=body)
    )
    for record in some.play().records:
        assert record.dropped == {"site-1": "bad-update"} and record.accepted == 2


@pytest.mark.parametrize("down", ["topk", "eden", "rotated-topk", "randk", "dense"])
def test_the_largest_update_that_is_taken_stops_no_run(world: World, down: str) -> None:
    some = world(
        federation={"server_momentum": 0.9, "server_learning_rate": 9.0},
        uplink={"values": "fp32"},
        downlink={"compressor": down, "error_feedback": True},
    )
    values = np.full(N, LARGEST_UPDATE, np.float32)
    some.members[0].always = says(lambda m, i: frame(m, i, values=values))
    played = some.play()
    assert np.isfinite(played.point.state.model).all()
    assert np.abs(played.point.state.model).max() > LARGEST_UPDATE
    assert [record.accepted for record in played.records] == [3, 3, 3, 3]


def test_a_step_so_long_that_the_model_cannot_be_sent_is_not_taken(world: World) -> None:
    some = world(federation={"server_learning_rate": 1e30})
    with pytest.raises(RunFailed, match="server_learning_rate: 1e\\+30"):
        some.play()
    point = checkpoint.load(some.directory / "checkpoint")
    assert point is not None
    np.testing.assert_array_equal(point.state.model, INITIAL)
    assert not any(site.acknowledged for site in point.sites.values())


def test_a_site_that_diverges_once_is_there_again_in_the_next_round(world: World) -> None:
    some = world()
    learner = some.members[0].learner
    delta = learner.delta
    learner.delta = lambda *a: delta(*a) if a[1] != 2 else np.full(N, 1e26, np.float32)
    played = some.play()
    assert [record.dropped for record in played.records] == [{}, {"site-1": "data"}, {}, {}]
    state = load(some.members[0].site.path)
    assert state is not None and np.abs(state.residual).max() < 100


def test_a_bound_on_the_norm_holds_whatever_a_site_sends(world: World) -> None:
    some = world(
        sites=1,
        federation={"update_norm": 0.5, "rounds": 1},
        uplink={"values": "fp32", "density": 1.0},
    )
    some.members[0].always = says(lambda m, i: frame(m, i, values=np.full(N, 1e30, np.float32)))
    rounds = some.rounds()
    before = rounds.point.state.model.astype(np.float64)
    some.play(rounds)
    moved = np.linalg.norm(rounds.point.state.model.astype(np.float64) - before)
    assert moved == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("values", ["sign", "fp32", "fp16", "levels-4"])
def test_what_a_bound_cuts_is_cut_at_both_ends(world: World, values: str, share: float) -> None:
    """What the server used and what the site keeps are, together, its input made shorter.

    Once the site took off from its residual what the server had cut: half of the input was in
    neither.
    """
    bound = 4.0
    some = world(
        sites=1,
        federation={"update_norm": bound, "rounds": 6},
        uplink={"values": values, "density": 0.1, "aggregate_feedback": share},
    )
    stub, site, rounds = some.members[0].learner, some.members[0].site, some.rounds()
    player = rounds.play(
        epsilon=lambda asked: None, evaluate=lambda number, model: ({}, {}), cpu_seconds=lambda: 0.0
    )
    before, residual = rounds.point.state.model.astype(np.float64), np.zeros(N)
    for record in player:
        wanted = residual + stub.deltas[record.round]
        state = load(site.path)
        assert record.accepted == 1 and state is not None and state.pending is not None
        model = rounds.point.state.model.astype(np.float64)
        used, residual = model - before, state.pending.residual.astype(np.float64)
        assert np.linalg.norm(used) <= bound * (1 + 1e-5)
        # Nothing but one factor, and not much smaller than the bound asks for.
        factor = (used + residual) @ wanted / (wanted @ wanted)
        assert bound / np.linalg.norm(wanted) < factor < 1
        np.testing.assert_allclose(used + residual, factor * wanted, atol=1e-4)
        before = model


def test_a_claim_of_too_many_records_is_dropped(world: World) -> None:
    some = world(federation={"weighting": "records"})
    some.members[2].always = says(lambda m, i: frame(m, i, records=2**32 - 1))
    played = some.play()
    assert all(r.dropped == {"site-3": "bad-update"} for r in played.records)


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
        player = some.rounds().play(
            epsilon=lambda asked: None,
            evaluate=lambda number, model: ({}, {}),
            cpu_seconds=lambda: 0.0,
        )
        next(player)
        player.close()
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
