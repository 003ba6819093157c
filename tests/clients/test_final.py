"""The released model at a site: kept as it was sent, and nothing else is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from clients import final
from clients.site import Site
from fedlite import compression
from fedlite.guard.guardian import Decline
from fedlite.messages import Code, Instruction
from fedlite.parameters import Vector, vector_digest
from server import broadcast
from tests.clients.stub import LAYOUT, RUN, N, invite, scenario, site

MODEL = np.linspace(-3, 5, N).astype(np.float32)


@pytest.fixture
def taker(tmp_path: Path) -> Site:
    return site(tmp_path, scenario(federation={"rounds": 2, "deliver": True}))


def sent(model: Vector = MODEL, number: int = 3, layout: bytes = LAYOUT.digest) -> Instruction:
    return invite(number, model, broadcast.full(model, number, layout, RUN))


def test_the_keys_of_a_runs_sums_go_when_its_model_comes(taker: Site) -> None:
    keys = taker.path.with_suffix(".sums")
    keys.write_bytes(b"secret")
    with pytest.raises(Decline):
        final.keep(taker, sent(number=2).encode())
    assert keys.exists(), "not while a sum may come"
    final.keep(taker, sent().encode())
    assert not keys.exists()


def test_the_model_is_kept_to_the_bit_and_nothing_is_trained(taker: Site, tmp_path: Path) -> None:
    for _ in range(2):
        final.keep(taker, sent().encode())
        assert final.read(tmp_path, N).tobytes() == MODEL.tobytes()
    assert taker.learner.deltas == [] and not taker.path.exists()  # type: ignore[attr-defined]


def test_a_question_without_a_model_keeps_none(taker: Site, tmp_path: Path) -> None:
    final.keep(taker, b"?")
    assert not any(tmp_path.iterdir())


def bad(what: str) -> bytes:
    envelope = compression.Envelope(run=RUN, round=3, site=0, layout=LAYOUT.digest, base=bytes(8))
    sparse = compression.pack(envelope, compression.TopK(0.05).codec, b"\x00" * 40)
    # No honest compressor takes it, so its bytes are put in by hand.
    nan, dense = MODEL.copy(), compression.Dense()
    nan[-1] = np.nan
    body = dense.compress(MODEL)[:-4] + nan[-1:].tobytes()
    no_number = replace(
        sent(), model=vector_digest(nan), frames=(compression.pack(envelope, dense.codec, body),)
    )
    return {
        "no instruction": b"x" * 99,
        "round that is played": sent(number=2).encode(),
        "round far away": sent(number=9).encode(),
        "another site": replace(sent(), site=77).encode(),
        "another layout": sent(layout=bytes(8)).encode(),
        "another digest": replace(sent(), model=bytes(8)).encode(),
        "no frame": replace(sent(), frames=()).encode(),
        "two frames": replace(sent(), frames=sent().frames * 2).encode(),
        "not a number": no_number.encode(),
        "another length": sent(MODEL[:-1]).encode(),
        "a difference": replace(sent(), frames=(sparse,)).encode(),
        "cut": sent().encode()[:-1],
    }[what]


@pytest.mark.parametrize(
    "what",
    ["no instruction", "round that is played", "round far away", "another site", "another layout",
     "another digest", "no frame", "two frames", "not a number", "another length", "a difference",
     "cut"],
)  # fmt: skip
def test_anything_else_is_declined_and_not_kept(taker: Site, tmp_path: Path, what: str) -> None:
    with pytest.raises(Decline) as declined:
        final.keep(taker, bad(what))
    assert declined.value.code is Code.BAD_INSTRUCTION and not any(tmp_path.iterdir())


def test_what_approved_code_left_instead_is_not_followed(tmp_path: Path) -> None:
    """The folder of a run is its worker's: it may put there what it likes."""
    secret = tmp_path / "secret"
    secret.write_bytes(safetensors.numpy.save({"model": MODEL}))
    path = tmp_path / final.FILE
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        final.read(tmp_path, N)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is damaged"):
        final.read(tmp_path, N)
    path.unlink()
    other = MODEL.copy()
    other[0] = np.inf
    for content in (
        b"", b"{}", safetensors.numpy.save({"model": MODEL[1:]}),
        safetensors.numpy.save({"model": MODEL.astype(np.float64)}),
        safetensors.numpy.save({"model": other}),
        safetensors.numpy.save({"a": MODEL, "b": MODEL}),
        safetensors.numpy.save({"model": np.zeros(10**6, np.float32)}),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged|holds others"):
            final.read(tmp_path, N)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        final.read(tmp_path, N)
