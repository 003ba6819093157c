from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded
from fedlite.scenario import Federation
from strategies import FedAvg, ServerState, make
from strategies.base import MOST_RECORDS

N = 50
RNG = np.random.default_rng(3)
UPDATES = [[RNG.normal(size=N).astype(np.float32) for _ in range(3)] for _ in range(4)]


def dense(values: np.ndarray) -> Decoded:
    return Decoded(N, None, values)


@pytest.mark.parametrize("weights", [None, [1, 10, 100]])
@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 1.0), (0.9, 0.5)])
def test_rounds_follow_the_textbook_recursion(
    weights: list[int] | None, momentum: float, rate: float
) -> None:
    federation = Federation(
        rounds=4,
        weighting="records" if weights else "uniform",
        server_momentum=momentum,
        server_learning_rate=rate,
        average_last=0.5,
    )
    strategy = make(federation)
    start = RNG.normal(size=N).astype(np.float32)
    state = ServerState.initial(start)
    model, velocity, models = start.astype(np.float64), np.zeros(N), []
    for number, updates in enumerate(UPDATES, start=1):
        strategy.start(N)
        for index, update in enumerate(updates):
            strategy.add(dense(update), weights[index] if weights else 0)
        state = strategy.finish(state, number)
        velocity = momentum * velocity + np.average(updates, axis=0, weights=weights)
        model = model + rate * velocity
        models.append(model)
        np.testing.assert_allclose(state.model, model, atol=1e-5)
    assert state.scalars == {"averaged": 2}
    np.testing.assert_allclose(state.released, np.mean(models[2:], axis=0), atol=1e-5)


def test_sparse_updates_count_for_every_coordinate() -> None:
    strategy = FedAvg(Federation())
    strategy.start(4)
    strategy.add(Decoded(4, np.array([1]), np.array([3.0], np.float32)), 0)
    strategy.add(Decoded(4, np.array([1, 3]), np.array([1.0, 8.0], np.float32)), 0)
    after = strategy.finish(ServerState.initial(np.zeros(4, np.float32)), 1)
    assert after.model.tolist() == [0.0, 2.0, 0.0, 4.0]


@pytest.mark.parametrize("records", [0, MOST_RECORDS + 1, 2**32 - 1])
def test_an_absurd_weight_is_refused_and_changes_nothing(records: int) -> None:
    strategy = FedAvg(Federation(weighting="records"))
    strategy.start(N)
    strategy.add(dense(UPDATES[0][0]), 5)
    with pytest.raises(ValueError, match=f"records: .* got {records}"):
        strategy.add(dense(UPDATES[0][1]), records)
    after = strategy.finish(ServerState.initial(np.zeros(N, np.float32)), 1)
    np.testing.assert_allclose(after.model, UPDATES[0][0], rtol=1e-6)


def test_a_claim_of_records_is_ignored_when_all_count_the_same() -> None:
    strategy = FedAvg(Federation())
    strategy.start(1)
    strategy.add(Decoded(1, None, np.array([1.0], np.float32)), 1_000_000)
    strategy.add(Decoded(1, None, np.array([3.0], np.float32)), 0)
    assert strategy.finish(ServerState.initial(np.zeros(1, np.float32)), 1).model.tolist() == [2.0]


def test_a_round_without_updates_changes_nothing_but_the_average() -> None:
    federation = Federation(rounds=2, average_last=1.0, server_momentum=0.9)
    strategy = FedAvg(federation)
    start = ServerState.initial(np.ones(N, np.float32))
    start = start.having(momentum=np.ones(N, np.float32))
    strategy.start(N)
    after = strategy.finish(start, 1)
    np.testing.assert_array_equal(after.model, start.model)
    np.testing.assert_array_equal(after.array("momentum"), start.array("momentum"))
    assert after.scalars == {"averaged": 1}


def test_a_finished_round_leaves_the_state_it_began_with_alone() -> None:
    strategy = FedAvg(Federation(server_momentum=0.9, average_last=1.0, rounds=1))
    start = ServerState.initial(np.ones(N, np.float32))
    start = start.having(momentum=np.zeros(N, np.float32), total=np.zeros(N), averaged=0)
    strategy.start(N)
    strategy.add(dense(UPDATES[0][0]), 0)
    after = strategy.finish(start, 1)
    assert (start.model == 1).all() and not start.array("momentum").any()
    assert not start.array("total").any() and start.scalars == {"averaged": 0}
    assert after.array("total").any() and after.scalars == {"averaged": 1}


def test_memory_does_not_grow_with_the_sites() -> None:
    strategy = FedAvg(Federation())
    strategy.start(N)

    def held() -> int:
        return sum(v.nbytes for v in vars(strategy).values() if isinstance(v, np.ndarray))

    before = held()
    for _ in range(100):
        strategy.add(dense(UPDATES[0][0]), 0)
    assert held() == before == 8 * N


def test_a_strategy_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"federation.strategy: .*fedavg.* got 'fedsgdx'"):
        make(Federation(strategy="fedsgdx"))
