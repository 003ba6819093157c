from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded
from fedlite.parameters import Layout, Vector, turns_of
from fedlite.scenario import Federation
from strategies import STRATEGIES, Gathered, ServerState, Strategy, make

N = 6
# The others see every update, and are refused where the server adds noise.
STREAMING = sorted(n for n, kind in STRATEGIES.items() if not issubclass(kind, Gathered))
UPDATE = Decoded(N, None, np.linspace(-1, 2, N).astype(np.float32))


@pytest.mark.parametrize("name", STREAMING)
def test_no_rule_sees_more_of_a_round_than_the_mean_it_is_given(name: str) -> None:
    """The server's noise is in the mean: were the sum used beside it, the noise would be undone."""
    seen: list[float] = []

    def elsewhere(total: np.ndarray, weight: float) -> Vector:
        seen.append(weight)
        return np.full(N, 3, np.float32)

    federation = Federation(strategy=name, server_momentum=0.9, server_learning_rate=0.1)
    noised, clear = make(federation, elsewhere), make(federation)
    start = ServerState.initial(np.zeros(N, np.float32))
    for strategy, update in (
        (noised, UPDATE),
        (clear, Decoded(N, None, np.full(N, 3, np.float32))),
    ):
        strategy.start(N)
        strategy.add(update, 0)
    after, truth = noised.finish(start, 1), clear.finish(start, 1)
    assert seen == [1.0] and after.arrays.keys() == truth.arrays.keys()
    for key, array in after.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, truth.arrays[key])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_rule_remembers_nothing_but_the_state(name: str) -> None:
    federation = Federation(
        strategy=name, rounds=4, average_last=0.5, server_momentum=0.9, quorum=5
    )
    one = make(federation)
    whole = parts = ServerState.initial(np.ones(N, np.float32))
    for number in range(1, 5):
        other = make(federation)
        for strategy in (one, other):
            strategy.start(N)
            strategy.add(UPDATE, 0)
        whole, parts = one.finish(whole, number), other.finish(parts, number)
    assert whole.scalars == parts.scalars == {"averaged": 2}
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(array, parts.arrays[key])


@pytest.mark.parametrize("name", STREAMING)
def test_what_stands_still_is_neither_stepped_nor_noised_and_each_turn_remembers_its_own(
    name: str,
) -> None:
    """As if each turn's values were a model of their own, though the mean is noised everywhere."""
    layout = Layout(("a", "b"), ((2,), (4,)))
    turns = turns_of(layout, (("a",), ("b",)))

    def noised(total: np.ndarray, weight: float) -> Vector:
        return (total / weight + np.linspace(1, 2, total.size)).astype(np.float32)

    federation = Federation(
        strategy=name, rounds=4, server_momentum=0.9, server_learning_rate=0.1, average_last=0.5
    )
    rule = make(federation, noised)
    state = ServerState.initial(np.ones(N, np.float32))
    alone = [ServerState.initial(np.ones(turn.moving.size, np.float32)) for turn in turns]
    for number in range(1, 5):
        at = (number - 1) % 2
        turn, before = turns[at], state.model
        mine = UPDATE.values[turn.moving]
        rule.start(turn.moving.size)
        rule.add(Decoded(turn.moving.size, None, mine), 0)
        state = rule.finish(state, number, turn)
        # The same rule with nothing but this turn's values, and the mean that those have.
        mean = noised(mine.astype(np.float64), 1.0)
        other = make(federation, lambda total, weight, mean=mean: mean)
        other.start(turn.moving.size)
        other.add(Decoded(turn.moving.size, None, mean), 0)
        alone[at] = other.finish(alone[at], 1)
        still = np.setdiff1d(np.arange(N), turn.moving)
        np.testing.assert_array_equal(state.model[still], before[still])
        np.testing.assert_array_equal(state.model[turn.moving], alone[at].model)
    # What is released is the mean of the whole model over the last rounds.
    assert state.scalars["averaged"] == 2


def test_a_state_is_never_changed_in_place() -> None:
    before = ServerState.initial(np.ones(N, np.float32))
    after = before.having(model=np.zeros(N, np.float32), count=1).having(count=2)
    assert before.model.all() and not before.scalars
    assert not after.model.any() and after.scalars == {"count": 2}
    assert before.array("other", 0.5).tolist() == [0.5] * N and "other" not in before.arrays


def test_what_is_released_is_the_models_average_as_far_as_there_is_one() -> None:
    state = ServerState.initial(np.array([1.0, 2.0], np.float32))
    assert state.released.tolist() == [1.0, 2.0]
    state = state.with_model_counted().having(model=np.array([2.0, 4.0], np.float32))
    assert state.released.tolist() == [1.0, 2.0]
    released = state.with_model_counted().released
    assert released.tolist() == [1.5, 3.0] and released.dtype == np.float32


def test_a_rule_without_a_step_cannot_be_made() -> None:
    class Idle(Strategy):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Idle(Federation())  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (lambda state, mean: state.having(note="text"), "keep .*another kind for 'note'"),
        (lambda state, mean: state.having(o=np.array([{}])), "keep .*another kind for 'o'"),
        (lambda state, mean: None, "got NoneType"),
        (lambda state, mean: state.model, "got ndarray"),
        (lambda state, mean: state.having(model=state.model[:3]), r"got float32 \(3,\)"),
        (lambda state, mean: state.having(model=state.model.astype(float)), r"got float64 \(6,\)"),
    ],
)
def test_a_step_that_leads_to_no_model_is_named(step: object, found: str) -> None:
    rule = type("Mine", (Strategy,), {"step": lambda self, state, mean: step(state, mean)})  # type: ignore[operator]
    strategy = rule(Federation())
    strategy.start(N)
    strategy.add(UPDATE, 0)
    with pytest.raises(ValueError, match=rf"federation\.strategy: Mine\.step must .*{found}"):
        strategy.finish(ServerState.initial(np.zeros(N, np.float32)), 1)
