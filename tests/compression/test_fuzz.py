"""Damaged and hostile frames: a receiver refuses them with ValueError, or gets a legal update.

The CRC is made anew after every mutation, so that the decoders' own checks are what is tested.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

from fedlite.compression import Compressor, Context, Decoded, Dense, TopK, pack, unpack
from fedlite.compression.compressor import COMPRESSORS
from fedlite.compression.eden import Eden
from fedlite.compression.frame import HEADER_BYTES, Envelope
from fedlite.compression.randk import RandK
from fedlite.compression.rotated import RotatedTopK
from fedlite.compression.selection import count

ENVELOPE = Envelope(run=b"run-0001", round=2, site=1, layout=b"layout-1", base=b"model-at")
FRAMES = 6000
CASES: list[tuple[Compressor, int]] = [
    (Dense(), 60),
    (Dense("fp16"), 200),
    (TopK(0.05, "sign"), 600),
    (TopK(0.3, "sign"), 200),
    (TopK(0.1, "fp32"), 300),
    (TopK(0.1, "fp16"), 300),
    (TopK(0.1, "sign-per-tensor", (100, 150, 50)), 300),
    (TopK(0.1, "sign-per-chunk", (100, 150, 50)), 300),
    (TopK(0.2, "levels-2"), 400),
    (TopK(0.3, "levels-4"), 400),
    (TopK(0.3, "levels-11"), 400),
    (TopK(0.02, "levels-16"), 2000),
    (RandK(0.1, "fp32", unbiased=True), 300),
    (RandK(0.1, "sign-per-tensor", (100, 200), unbiased=False), 300),
    (RandK(0.5, "levels-4"), 300),
    (Eden(1), 250),
    (Eden(3), 600),
    (RotatedTopK(0.1), 300),
]
IDS = [f"{compressor!r}-{n}" for compressor, n in CASES]


def corpus(compressor: Compressor, n: int) -> list[bytes]:
    """Frames that are in order: of ordinary, sparse, equal, tiny and zero updates."""
    rng = np.random.default_rng(n)
    spike = np.where(rng.random(n) < 0.02, 1e4, 0.0)
    vectors = [rng.laplace(size=n), rng.normal(size=n), spike, np.ones(n), np.zeros(n)]
    vectors += [1e-40 * rng.normal(size=n), np.arange(n) % 7 - 3.0]
    bodies = [
        compressor.compress(vector.astype(np.float32), ENVELOPE.context) for vector in vectors
    ]
    return [pack(ENVELOPE, compressor.codec, body, 100) for body in bodies]


def mutate(rng: random.Random, frames: list[bytes]) -> bytes:
    """Return a frame with one to three faults in its body, or now and then in its header."""
    blob = rng.choice(frames)
    head = bytearray(blob[:HEADER_BYTES])
    body = bytearray(blob[HEADER_BYTES:])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        size = len(body)
        # The first bytes hold lengths, modes and scales: half of all faults are there.
        at = rng.randrange(min(size, 24) if rng.random() < 0.5 else size) if size else 0
        kind = rng.randrange(10)
        if kind in (0, 1) and size:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and size:
            body[at] = rng.randrange(256)
        elif kind == 3:
            del body[at:]
        elif kind == 4:
            body[at:at] = rng.randbytes(rng.randrange(1, 6))
        elif kind == 5:
            body += rng.choice((b"\0", b"\1", b"\xff", rng.randbytes(rng.randrange(1, 9))))
        elif kind == 6:
            other = rng.choice(frames)[HEADER_BYTES:]
            body[at:] = other[at:] if rng.random() < 0.5 else other[rng.randrange(size + 1) :]
        elif kind == 7:
            form = rng.choice(("<B", "<H", "<I"))
            width = struct.calcsize(form)
            now = int.from_bytes(body[at : at + width], "little")
            top = 256**width - 1
            number = rng.choice((0, 1, 127, 128, top, top >> 1, size, now + 1, now - 1, 2 * now))
            body[at : at + width] = struct.pack(form, number & top)
        elif kind == 8 and size:
            run = rng.randrange(1, 9)
            body[at : at + run] = rng.choice((b"\0", b"\xff")) * run
        else:
            del body[at : at + rng.randrange(1, 5)]
    if rng.random() < 0.02:
        head[rng.randrange(24)] ^= 1 << rng.randrange(8)
    head[24:28] = struct.pack("<I", zlib.crc32(body, zlib.crc32(head[:24])))
    return bytes(head + body)


def receive(blob: bytes, compressor: Compressor, n: int, limit: int) -> Decoded:
    """What a receiver does with a frame."""
    codec, _, body = unpack(blob, ENVELOPE, limit=limit)
    if codec != compressor.codec:
        raise ValueError(f"codec must be {compressor.codec}, got {codec}")
    return compressor.decompress(body, n, ENVELOPE.context)


def is_legal(update: Decoded, compressor: Compressor, n: int) -> bool:
    """Whether aggregation can use the update without a further look."""
    values = update.values
    if update.size != n or values.dtype != np.float32 or not np.isfinite(values).all():
        return False
    if isinstance(compressor, TopK | RandK):
        indices = update.indices
        k = count(n, compressor.density)
        return (
            indices is not None
            and indices.dtype.kind == "i"
            and indices.shape == values.shape == (k,)
            and 0 <= int(indices[0])
            and int(indices[-1]) < n
            and bool((indices[1:] > indices[:-1]).all())
        )
    return update.indices is None and values.shape == (n,)


def test_there_are_a_hundred_thousand_frames() -> None:
    assert FRAMES * len(CASES) >= 100_000
    assert {compressor.name for compressor, _ in CASES} == set(COMPRESSORS)
    assert {compressor.codec for compressor, _ in CASES} == set(range(12)) - {9}


@pytest.mark.long
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_mutated_frames_are_refused_or_legal(case: int) -> None:
    compressor, n = CASES[case]
    rng, limit = random.Random(case), compressor.limit(n)
    frames = corpus(compressor, n)
    outcomes = {"refused": 0, "legal": 0}
    for number in range(FRAMES):
        blob = mutate(rng, frames)
        try:
            legal = is_legal(receive(blob, compressor, n, limit), compressor, n)
        except ValueError:
            outcomes["refused"] += 1
            continue
        except Exception as error:
            pytest.fail(f"{compressor!r} n={n} seed {case} frame {number} {blob.hex()}: {error!r}")
        assert legal, f"{compressor!r} n={n} seed {case} frame {number} {blob.hex()}"
        outcomes["legal"] += 1
    # Faults must reach the decoder's depths, not only its first check.
    assert min(outcomes.values()) > FRAMES // 50, outcomes


@pytest.mark.parametrize(
    "compressor", [c for c, _ in CASES if not getattr(c, "sections", ())], ids=repr
)
def test_frames_of_a_larger_model_take_memory_of_the_plan(compressor: Compressor) -> None:
    """At most what the plan's own numbers need, whatever a frame claims."""
    n = 50_000
    limit = compressor.limit(n)
    coordinates = n
    if isinstance(compressor, TopK | RandK):
        coordinates = count(n, compressor.density)
    rng = random.Random(n)
    frames = corpus(compressor, n)
    peak = 0
    tracemalloc.start()
    try:
        for _ in range(60):
            blob = mutate(rng, frames)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                update = receive(blob, compressor, n, limit)
                legal = is_legal(update, compressor, n)
            except ValueError:
                legal = True
            peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
            assert legal, blob.hex()
    finally:
        tracemalloc.stop()
    assert peak < 20_000 + 10 * limit + 40 * coordinates


@pytest.mark.parametrize("compressor", [c for c, n in CASES if n == 300], ids=repr)
def test_huge_bodies_are_refused_before_they_are_read(compressor: Compressor) -> None:
    body = b"\xff" * 5_000_000
    blob = pack(ENVELOPE, compressor.codec, body)
    limit = compressor.limit(300)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at most"):
            unpack(blob, ENVELOPE, limit=limit)
        with pytest.raises(ValueError, match="takes"):
            compressor.decompress(body, 300)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"run": b"run-0002"}, "the run, the site or the base model differs"),
        ({"round": 3}, "frame round must be 3, got 2"),
        ({"site": 2}, "the run, the site or the base model differs"),
        ({"base": b"model-b."}, "the run, the site or the base model differs"),
        ({"layout": b"layout-2"}, "the run, the site or the base model differs"),
        ({"layout": b"other-ly"}, "the sender trains another model"),
    ],
)
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_a_frame_for_something_else_is_refused_by_name(
    case: int, change: dict[str, bytes], text: str
) -> None:
    compressor, n = CASES[case]
    blob = corpus(compressor, n)[0]
    with pytest.raises(ValueError, match=text):
        unpack(blob, replace(ENVELOPE, **change), limit=compressor.limit(n))


@pytest.mark.parametrize("sender", [0, 2])
def test_the_draw_belongs_to_round_and_sender(sender: int) -> None:
    """A body that gets past the frame under another context still gives a legal update."""
    other = Context(b"another run", sender)
    for compressor, n in CASES:
        body = corpus(compressor, n)[0][HEADER_BYTES:]
        assert is_legal(compressor.decompress(body, n, other), compressor, n)
