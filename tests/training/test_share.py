from __future__ import annotations

import math

import numpy as np
import pytest
import torch

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


def test_a_round_repeats_bit_for_bit_and_no_two_are_alike() -> None:
    first, second = (Learner(scenario(), dataset(), 10) for _ in range(2))
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
        learner = Learner(scenario(**PRIVATE, simulate_seed=simulate_seed), dataset(), 10)
        return learner.delta(learner.initial, 1, 7, MECHANISM)

    assert not np.array_equal(delta(-1), delta(-1))
    np.testing.assert_array_equal(delta(0), delta(0))
    assert not np.array_equal(delta(0), delta(1))


def test_a_private_learner_never_trains_in_the_clear() -> None:
    learner = Learner(scenario(**PRIVATE), dataset(), 10)
    with pytest.raises(ValueError, match="mechanism"):
        learner.delta(learner.initial, 1, 7, None)


def test_the_plan_fits_the_budget_and_needs_a_settled_batch() -> None:
    mechanism = share.plan_mechanism(scenario(**PRIVATE))
    assert mechanism.steps == 3 and mechanism.expected_batch == 10
    # Tight Gaussian bound of Balle and Wang 2018: three steps at this noise give epsilon 1.
    mu = math.sqrt(3) / mechanism.noise_multiplier
    low, high = (0.5 * math.erfc((s * mu / 2 + 1.0 / mu) / math.sqrt(2)) for s in (-1, 1))
    assert low - math.e * high == pytest.approx(1e-5, rel=0.01)
    with pytest.raises(ValueError, match=r"privacy.expected_batch: .* got 0; set it"):
        share.plan_mechanism(scenario(unit="record"))


def test_the_expected_batch_comes_from_public_numbers_only() -> None:
    open_plan = scenario(unit="record", sampling_rate=0.5)
    settled = share.settle_batch(open_plan, 3000)
    assert settled.privacy.expected_batch == 400  # 0.5 x 3000 x 0.8 / 3
    assert share.settle_batch(settled, 99) == settled
    assert share.settle_batch(scenario(), 3000) == scenario()
    assert share.settle_batch(open_plan, 1).privacy.expected_batch == 1


def test_the_device_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert share.device_of("auto").type == share.device_of("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r"training.device: .* got 'cuda'"):
        share.device_of("cuda")


def test_a_constant_rate_is_constant() -> None:
    assert {share.learning_rate(scenario(), r) for r in (1, 2, 3)} == {0.1}


def test_a_linear_rate_holds_and_then_falls_to_its_last_share() -> None:
    plan = from_dict(
        {
            "federation": {"rounds": 21},
            "training": {"learning_rate": 2.0, "schedule": "linear", "hold": 0.5, "final": 0.2},
        }
    )
    rates = [share.learning_rate(plan, r) for r in range(1, 22)]
    np.testing.assert_allclose(rates[:11], 2.0)
    np.testing.assert_allclose(rates[10:], np.linspace(2.0, 0.4, 11))


def test_class_offsets_are_the_logs_of_smoothed_shares() -> None:
    offsets = share.class_offsets(torch.tensor([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(offsets.numpy(), np.log(np.array([4, 1, 2]) / 7), rtol=1e-6)
