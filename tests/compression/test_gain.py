"""An update is not longer where it is read than the factor says, whatever was sent before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlite.compression import COMPRESSORS, Context, Residual, compress, gain, make

N = 2_000
KINDS = ("noise", "constant", "steep", "few", "late", "turns")


def delta(kind: str, number: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the update of a round, of length 1 at most."""
    noise, at = rng.normal(size=N), np.arange(1, N + 1)
    made = {
        "noise": noise,
        "constant": np.ones(N) + 0.1 * noise,
        "steep": 1.0 / at**1.2,
        "few": np.where(at % 97 == number % 97, 1.0, 1e-4),
        # Much is kept back behind a few loud coordinates, and these fall silent.
        "late": np.where(at <= N // 100, 30.0 * (number < 60), 1.0),
        "turns": np.where(at // 200 == number % 10, 1.0, 0.0),
    }[kind]
    return (made / np.linalg.norm(made)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.01, 0.1])
@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_no_update_arrives_longer(name: str, feedback: bool, density: float, kind: str) -> None:
    more: dict[str, Any] = {"values": "sign"} if name == "topk" else {}
    compressor = make(name, density=density, unbiased=not feedback, sections=(N,), **more)
    residual, rng = Residual(np.zeros(N, np.float32)), np.random.default_rng(3)
    found = []
    for number in range(120 if feedback else 12):
        context = Context(bytes([number]), 1)
        kept = residual if feedback else None
        sent = compress(compressor, delta(kind, number, rng), kept, context=context)
        residual = sent.residual
        found.append(float(np.linalg.norm(sent.update.dense().astype(np.float64))))
    assert max(found) <= gain(compressor, feedback=feedback)


def test_of_a_compressor_of_others_nothing_is_known() -> None:
    class Own:
        name, codec = "own", 200

        def compress(self, vector: Any, context: Any = None) -> bytes:
            return b""

        def decompress(self, body: bytes, size: int, context: Any = None) -> Any:
            return None

        def limit(self, size: int) -> int:
            return 0

    assert gain(Own(), feedback=False) == float("inf")  # type: ignore[arg-type]
