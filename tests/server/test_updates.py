"""Updates are bounded, summed and noised, whatever a site sends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clients.state import load
from fedlite import compression
from fedlite.compression import batch
from fedlite.parameters import LARGEST_UPDATE
from fedlite.privacy import ClientMechanism
from server import checkpoint
from server.rounds import RunFailed
from server.updates import Updates
from tests.server.hostile import N, World, frame, says

INITIAL = np.linspace(-1, 1, N).astype(np.float32)


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
    lengths, add = [], Updates.add_many

    def counting(updates: Updates, arrived: Any, aged: Any = None) -> Any:
        lengths.extend(len(blob) for _, blob in arrived)
        return add(updates, arrived, aged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "add_many", counting)
        played = some.play(some.rounds(central=plan))
    assert len(lengths) == 12 and len(set(lengths)) == 1
    assert {r.bytes_up for r in played.records} == {4 * lengths[0]}
    assert all(r.accepted == 4 for r in played.records)


@pytest.mark.parametrize("size", [3.0e38, -3.0e38, 1.0e26, 1.1 * LARGEST_UPDATE])
@pytest.mark.parametrize("up", ["topk", "eden", "rotated-topk", "randk", "dense"])
def test_a_huge_update_is_dropped_and_its_sender_named_in_every_round(
    world: World, size: float, up: str
) -> None:
    some = world(uplink={"compressor": up, "values": "fp32"}, federation={"rounds": 3})
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
        federation={
            "server_momentum": 0.9,
            "server_learning_rate": 9.0,
            "outlier_factor": 0.0,
        },
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
        epsilon=lambda asked: None, evaluate=lambda number, model: {}, cpu_seconds=lambda: 0.0
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
    some = world(federation={"weighting": "records", "rounds": 3})
    some.members[2].always = says(lambda m, i: frame(m, i, records=2**32 - 1))
    played = some.play()
    assert all(r.dropped == {"site-3": "bad-update"} for r in played.records)


def test_no_more_updates_are_opened_than_are_decoded_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is open is a copy of what came."""
    opened, most, arrived = 0, 0, []
    open_, add, many = Updates._open, Updates._add, Updates.add_many

    def opening(self: Updates, *given: Any) -> Any:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        return open_(self, *given)

    def adding(self: Updates, *given: Any) -> None:
        nonlocal opened
        opened -= 1
        add(self, *given)

    def noting(self: Updates, some: Any, aged: Any = None) -> Any:
        arrived.append(len(some))
        return many(self, some, aged)

    monkeypatch.setattr(batch, "most", lambda *_: 2)
    monkeypatch.setattr(Updates, "_open", opening)
    monkeypatch.setattr(Updates, "_add", adding)
    monkeypatch.setattr(Updates, "add_many", noting)
    some = world(sites=5, uplink={"compressor": "rotated-topk"}, federation={"rounds": 1})
    assert [record.accepted for record in some.play().records] == [5]
    assert max(arrived) > 2 and most == 2
