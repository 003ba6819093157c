from __future__ import annotations

import numpy as np
import pytest

from fedlite import compression
from fedlite.parameters import Vector, vector_digest
from server import broadcast

N, RUN, LAYOUT = 1000, b"run-0001", b"layout-1"
RNG = np.random.default_rng(2)
START = RNG.normal(size=N).astype(np.float32)
LINK = compression.make("topk", density=0.02, values="sign")


def receive(held: Vector, first: int, frames: tuple[bytes, ...]) -> Vector:
    """Apply a chain as a site would, from the frames alone."""
    sparse = LINK
    for number, frame in enumerate(frames, start=first):
        full = frame[3] == 0
        base = bytes(8) if full else vector_digest(held)
        envelope = compression.Envelope(RUN, number, 0, LAYOUT, base)
        _, _, body = compression.unpack(frame, envelope, limit=4 * N)
        decoded = (compression.Dense() if full else sparse).decompress(body, N)
        if full:
            held = decoded.dense()
        else:
            held = held.copy()
            decoded.add_to(held, 1.0)
    return held


def test_the_first_round_sends_nothing() -> None:
    down = broadcast.initial(START)
    down.advance(START, LINK, LAYOUT, RUN)
    assert down.frames_for(1, LAYOUT, RUN) == ()
    np.testing.assert_array_equal(down.replica, START)


def test_every_site_arrives_at_the_servers_replica_bit_for_bit() -> None:
    down = broadcast.initial(START)
    model, held = START, {1: START}
    for number in range(1, 9):
        down.advance(model, LINK, LAYOUT, RUN)
        for before, replica in held.items():
            frames = down.frames_for(before, LAYOUT, RUN)
            first = number - len(frames) + 1
            np.testing.assert_array_equal(receive(replica, first, frames), down.replica)
        held[number] = down.replica.copy()
        frames = down.frames_for(None, LAYOUT, RUN)
        assert len(frames) == 1 and len(frames[0]) == 4 * N + compression.HEADER_BYTES
        np.testing.assert_array_equal(receive(START, number, frames), down.replica)
        model = model + RNG.normal(size=N).astype(np.float32)


def test_what_compression_left_out_goes_out_later() -> None:
    down = broadcast.initial(np.zeros(N, np.float32))
    link = compression.make("topk", density=0.02, values="fp32")
    for _ in range(52):
        down.advance(START, link, LAYOUT, RUN)
    np.testing.assert_allclose(down.replica, START, atol=1e-6)


def test_the_full_model_is_sent_when_the_chain_is_longer() -> None:
    down = broadcast.initial(START)
    model = START
    link = compression.make("topk", density=0.5, values="fp32")
    for _ in range(6):
        down.advance(model, link, LAYOUT, RUN)
        model = model + RNG.normal(size=N).astype(np.float32)
    assert len(down.frames_for(5, LAYOUT, RUN)) == 1
    (full,) = down.frames_for(1, LAYOUT, RUN)
    assert len(full) == 4 * N + compression.HEADER_BYTES and full[3] == 0


def test_frames_that_nobody_will_be_sent_are_forgotten() -> None:
    down = broadcast.initial(START)
    model = START
    for _ in range(400):
        down.advance(model, LINK, LAYOUT, RUN)
        model = model + RNG.normal(size=N).astype(np.float32)
    assert 5 < len(down.frames) < 200
    assert sum(len(frame) for _, frame in down.frames) <= 4 * N
    numbers = [number for number, _ in down.frames]
    assert numbers == list(range(numbers[0], 401))


def test_a_site_that_needs_the_full_model_can_be_told_the_last_step_too() -> None:
    """For aggregate feedback: the model of the round before, and the frame that leads on."""
    down = broadcast.initial(START)
    for number in range(1, 5):
        model = START + np.float32(number)
        down.advance(model if number > 1 else START, LINK, LAYOUT, RUN)
    frames = down.frames_for(None, LAYOUT, RUN, with_step=True)
    assert len(frames) == 2 and frames[0][3] == 0 and frames[1][3] == LINK.codec
    before = receive(np.zeros(N, np.float32), 3, frames[:1])
    np.testing.assert_array_equal(receive(before, 4, frames[1:]), down.replica)
    np.testing.assert_array_equal(down.replica - before, down.step)
    assert down.step.any()


def test_before_the_first_round_nothing_was_broadcast() -> None:
    down = broadcast.initial(START)
    down.advance(START, LINK, LAYOUT, RUN)
    assert down.frames_for(1, LAYOUT, RUN, with_step=True) == ()
    assert not down.step.any()


@pytest.mark.parametrize("held", [1, 2, None])
def test_a_dense_link_sends_the_model_itself(held: int | None) -> None:
    down = broadcast.initial(START)
    model = START
    for number in (1, 2, 3):
        model = START + np.float32(number)
        down.advance(model if number > 1 else START, compression.Dense(), LAYOUT, RUN)
    np.testing.assert_array_equal(down.replica, model)
    frames = down.frames_for(held, LAYOUT, RUN)
    assert len(frames) == 1
    np.testing.assert_array_equal(receive(START, 3, frames), model)
