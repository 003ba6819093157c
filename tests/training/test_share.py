from __future__ import annotations

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.parameters import vector_digest
from fedlite.privacy import RecordMechanism
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Learner, share

PRIVATE = {"unit": "record", "epsilon": 1.0, "expected_batch": 10}
MECHANISM = RecordMechanism(
    clip=0.5, noise_multiplier=2.0, sampling_rate=1.0, steps=3, expected_batch=10
)


def dataset(n: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.random((n, 1, 8, 8), np.float32), rng.integers(0, 10, n))


def scenario(**privacy: object) -> Scenario:
    return from_dict(
        {
            "federation": {"rounds": 3, "sites": 3, "seed": 5},
            "model": {"name": "mlp"},
            "training": {"steps": 1, "batch_size": 8, "device": "cpu"},
            "privacy": privacy,
        }
    )


def made(**privacy: object) -> Learner:
    return Learner(plans.of(scenario(**privacy), (1, 8, 8), 10), dataset())


def test_a_round_repeats_bit_for_bit_and_no_two_are_alike() -> None:
    first, second = (made() for _ in range(2))
    base = first.initial
    delta = first.delta(base, 1, 7, None)
    first.delta(base, 2, 7, None)
    for again in (second.delta(base, 1, 7, None), first.delta(base, 1, 7, None)):
        np.testing.assert_array_equal(delta, again)
    assert not np.array_equal(delta, first.delta(base, 2, 7, None))
    assert not np.array_equal(delta, first.delta(base, 1, 8, None))
    assert delta.dtype == np.float32 and np.abs(delta).max() > 0
    assert vector_digest(base) == vector_digest(second.initial)


def test_two_private_sites_with_the_same_seed_differ_unless_it_is_simulated() -> None:
    def delta(simulate_seed: int) -> np.ndarray:
        learner = made(**PRIVATE, simulate_seed=simulate_seed)
        return learner.delta(learner.initial, 1, 7, MECHANISM)

    assert not np.array_equal(delta(-1), delta(-1))
    np.testing.assert_array_equal(delta(0), delta(0))
    assert not np.array_equal(delta(0), delta(1))


def test_a_private_learner_never_trains_in_the_clear() -> None:
    learner = made(**PRIVATE)
    with pytest.raises(ValueError, match="mechanism"):
        learner.delta(learner.initial, 1, 7, None)


def test_the_device_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert share.device_of("auto").type == share.device_of("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r"training.device: .* got 'cuda'"):
        share.device_of("cuda")
