"""Flower's wrappers for privacy around small messages, and the compressor that is recommended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as theirs
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from fedlite.flower import Compressed, compress
from fedlite.flower.recommended import recommend
from tests.flower.federation import START, client, nearer, play


@pytest.fixture
def seeded() -> Iterator[None]:
    state = np.random.get_state()
    np.random.seed(1)
    random.seed(1)
    yield
    np.random.set_state(state)


def server_side() -> Strategy:
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1e-6, 5.0, 4)


def fixed() -> Strategy:
    return DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1e-6, 5.0, 4)


def adaptive() -> Strategy:
    return DifferentialPrivacyClientSideAdaptiveClipping(
        FedAvg(), 1e-6, 4, initial_clipping_norm=5.0, clip_norm_lr=1e-6, clipped_count_stddev=1.0
    )


class Hidden(Strategy):
    """A wrapper of somebody's own, which keeps what it wraps where nobody looks."""

    def __init__(self) -> None:
        self._inner = fixed()

    def configure_train(self, *arguments: Any) -> Any:
        return self._inner.configure_train(*arguments)

    def aggregate_train(self, *arguments: Any) -> Any:
        return self._inner.aggregate_train(*arguments)

    def configure_evaluate(self, *arguments: Any) -> Any:
        return []

    def aggregate_evaluate(self, *arguments: Any) -> Any:
        return None

    def summary(self) -> None:
        return None


@pytest.mark.parametrize(
    ("make", "mods"),
    [
        (server_side, []),
        (fixed, [fixedclipping_mod]),
        (adaptive, [adaptiveclipping_mod]),
        (Hidden, [fixedclipping_mod]),
    ],
)
def test_under_flower_s_wrappers_no_decoded_update_is_longer_than_the_noise_is_made_for(
    make: Callable[[], Strategy], mods: list[Any], seeded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    inner = FedAvg.aggregate_train

    def measured(self: FedAvg, number: int, replies: Any) -> Any:
        for reply in (replies := list(replies)):
            record = reply.content["arrays"]
            parts = [record[k].numpy().astype(float) - START[k] for k in START]
            seen.append(float(np.sqrt(sum(np.sum(part**2) for part in parts))))
        return inner(self, number, replies)

    monkeypatch.setattr(FedAvg, "aggregate_train", measured)
    strategy = Compressed(make(), compressor="rotated-topk", density=0.03)
    play(strategy, client(nearer, [compress()], mods), START, rounds=1)
    # An honest update is 39 long, and decoded of 3 % about twice that.
    assert len(seen) == 4
    assert all(length <= 5.0 * (1 + 1e-5) for length in seen)
    assert max(seen) > 4.9


def test_noise_at_the_clients_comes_before_the_compression(seeded: None) -> None:
    noise = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=50.0, delta=1e-5)
    app = client(nearer, [compress()], [noise])
    ours, node, _ = play(Compressed(FedAvg()), app, START, rounds=2)
    assert np.isfinite(ours["w"]).all() and ours["w"].any()
    assert max(node.up[:4]) < 4 * 6060 / 15


def test_the_recommended_goes_by_what_the_strategy_does_with_updates() -> None:
    densities = [recommend(FedAvg(), asked).density for asked in (2, 5, 12, 13, 32, 33, 500)]
    assert densities == [0.1, 0.1, 0.1, 0.03, 0.03, 0.01, 0.01]
    for one_by_one in (theirs.Krum(), theirs.FedMedian(), server_side(), fixed(), adaptive()):
        assert recommend(one_by_one, 20).compressor == "eden"
    assert recommend(FedAvg(), 1).compressor == "eden"
