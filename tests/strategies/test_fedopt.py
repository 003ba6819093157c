from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flowers

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies import STRATEGIES, ServerState, make

N = 40
RNG = np.random.default_rng(11)
# From far below tau to far above it.
MEANS = [
    (RNG.normal(size=N) * 10.0 ** RNG.integers(-6, 2, size=N)).astype(np.float32) for _ in range(6)
]
RULES = ("fedadagrad", "fedadam", "fedyogi")


def settings(name: str, momentum: float = 0.9) -> Federation:
    return Federation(strategy=name, rounds=6, server_momentum=momentum, server_learning_rate=0.05)


def played(name: str, state: ServerState, momentum: float = 0.9) -> list[ServerState]:
    strategy, states = make(settings(name, momentum)), []
    for number, mean in enumerate(MEANS, start=1):
        strategy.start(N)
        strategy.add(Decoded(N, None, mean), 0)
        state = strategy.finish(state, number)
        states.append(state)
    return states


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", RULES)
def test_rounds_follow_algorithm_2_of_the_paper(name: str, momentum: float) -> None:
    """Coordinate by coordinate in Python's floats: beta_2 = 0.99, tau = 1e-3, v_{-1} = tau^2."""
    start = RNG.normal(size=N).astype(np.float32)
    ours = played(name, ServerState.initial(start), momentum)
    for i in range(N):
        x, m, v = float(start[i]), 0.0, 1e-6
        for number, mean in enumerate(MEANS):
            d = float(mean[i])
            m = momentum * m + (1 - momentum) * d
            if name == "fedadagrad":
                v = v + d * d
            elif name == "fedadam":
                v = 0.99 * v + 0.01 * d * d
            else:
                v = v - 0.01 * d * d * ((v > d * d) - (v < d * d))
            x = x + 0.05 * m / (math.sqrt(v) + 1e-3)
            assert ours[number].model[i] == pytest.approx(x, rel=1e-5, abs=1e-5)
            assert ours[number].array("second")[i] == pytest.approx(v, rel=1e-4)
    assert ours[-1].model.dtype == np.float32
    assert np.abs(ours[-1].model - start).max() > 0.02


@pytest.mark.parametrize("name", RULES)
def test_rounds_are_flowers_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower starts at v = 0, and in FedAdam alone corrects the first rounds' bias."""
    kind = {"fedadagrad": "FedAdagrad", "fedadam": "FedAdam", "fedyogi": "FedYogi"}[name]
    theirs: Any = getattr(flowers, kind)(eta=0.05, tau=1e-3)
    theirs.beta_1, theirs.beta_2 = 0.9, 0.99
    model = RNG.normal(size=N)
    start = ServerState.initial(model.astype(np.float32)).having(second=np.zeros(N, np.float32))
    ours = played(name, start)
    for number, mean in enumerate(MEANS, start=1):
        trained = ArrayRecord({"w": Array(model + mean)})
        monkeypatch.setattr(flowers.FedAvg, "aggregate_train", lambda *_, r=trained: (r, None))
        theirs.current_arrays = {"w": model}
        if name == "fedadam":
            bias = math.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
            theirs.eta = 0.05 / bias
        arrays, _ = theirs.aggregate_train(number, [])
        model = arrays["w"].numpy()
        np.testing.assert_allclose(ours[number - 1].model, model, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_round_without_updates_leaves_everything_alone(name: str) -> None:
    before = played(name, ServerState.initial(np.zeros(N, np.float32)))[-1]
    strategy = make(settings(name))
    strategy.start(N)
    assert strategy.finish(before, 3) is before


def test_each_is_in_the_registry() -> None:
    assert set(RULES) < set(STRATEGIES)
