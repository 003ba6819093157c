from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlite.models import build, losses
from fedlite.parameters import to_vector
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.gradients import ModelGradients, check_model
from fedlite.privacy.noise import Stream
from fedlite.privacy.trial import block_of

SILENT = 1e-6


class TwoHeads(nn.Module):
    """A shared linear stem under two heads, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 5)
        self.exit = nn.Linear(5, 3)
        self.tail = nn.Sequential(nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.stem(x)
        return self.exit(hidden), self.tail(hidden)


def loss(shallow: Tensor, deep: Tensor, labels: Tensor) -> Tensor:
    return losses(shallow, deep, labels, exit_weight=0.4, distill=0.3, temperature=2.0)


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return TwoHeads(), torch.randn(12, 6), torch.randint(0, 3, (12,))


def convolutional() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    return build("cnn", (1, 8, 8), 10, seed=3), torch.rand(9, 1, 8, 8), torch.randint(0, 10, (9,))


def fixed() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    model = build("cosine", (1, 8, 8), 10, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.1)
        return model, model.prepare(torch.rand(7, 1, 8, 8)), torch.randint(0, 10, (7,))


def by_single_records(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    mechanism: RecordMechanism,
    steps: int,
    learning_rate: float,
    sampler: Stream,
) -> list[int]:
    """Abadi et al. 2016, algorithm 1, one record at a time, without noise; returns batch sizes."""
    sizes = []
    parameters = list(model.parameters())
    for _ in range(steps):
        chosen = dpsgd.poisson_sample(len(labels), mechanism.sampling_rate, sampler)
        total = [torch.zeros_like(p) for p in parameters]
        for row in chosen:
            value = loss(*model(inputs[row : row + 1]), labels[row : row + 1]).sum()
            gradients = torch.autograd.grad(value, parameters)
            norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients))
            factor = min(1.0, mechanism.clip / norm)
            for summed, gradient in zip(total, gradients, strict=True):
                summed.add_(gradient, alpha=factor)
        with torch.no_grad():
            for parameter, summed in zip(parameters, total, strict=True):
                parameter.sub_(summed, alpha=learning_rate / mechanism.expected_batch)
        sizes.append(len(chosen))
    return sizes


@pytest.mark.parametrize("make", [linear, convolutional, fixed])
@pytest.mark.parametrize(("clip", "rate"), [(0.05, 1.0), (1.0, 0.3), (10.0, 0.5)])
def test_ghost_clipping_equals_a_loop_over_single_records(
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]], clip: float, rate: float
) -> None:
    model, inputs, labels = make()
    truth = copy.deepcopy(model)
    mechanism = RecordMechanism(clip, SILENT, rate, 3, 4)
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        mechanism,
        steps=3,
        learning_rate=0.5,
        sampler=Stream.seeded(5),
        noise=Stream.fresh(),
    )
    before = to_vector(truth)
    by_single_records(truth, inputs, labels, mechanism, 3, 0.5, Stream.seeded(5))
    np.testing.assert_allclose(to_vector(model), to_vector(truth), atol=1e-5, rtol=1e-4)
    assert np.abs(to_vector(truth) - before).max() > 1e-3


def test_what_is_added_after_the_noise_is_neither_clipped_nor_divided() -> None:
    """FedProx's pull beside clipped gradients, a step at a time; a pull of nothing changes none."""
    model, inputs, labels = linear()
    truth, silent = copy.deepcopy(model), copy.deepcopy(model)
    mechanism = RecordMechanism(0.05, SILENT, 1.0, 4, 4)
    start, mu = torch.tensor(to_vector(model)), 2.0

    def pull(direction: Tensor, values: Tensor) -> None:
        direction.add_(values - start, alpha=mu)

    def nothing(direction: Tensor, values: Tensor) -> None:
        assert not direction.any() and len(values) == len(start)

    def train(model: nn.Module, after: Callable[[Tensor, Tensor], None] | None) -> np.ndarray:
        dpsgd.train(
            model,
            inputs,
            labels,
            loss,
            mechanism,
            steps=4,
            learning_rate=0.2,
            sampler=Stream.seeded(5),
            noise=Stream.seeded(6),
            after=after,
        )
        return to_vector(model)

    one, others = train(model, pull), []
    for after in (nothing, None):
        others.append(train(copy.deepcopy(silent), after))
    np.testing.assert_array_equal(*others)
    for _ in range(4):
        pairs = zip(truth.parameters(), silent.parameters(), strict=True)
        pulls = [now.detach() - first.detach() for now, first in pairs]
        by_single_records(truth, inputs, labels, mechanism, 1, 0.2, Stream.seeded(5))
        with torch.no_grad():
            for parameter, moved in zip(truth.parameters(), pulls, strict=True):
                parameter.sub_(moved, alpha=0.2 * mu)
    np.testing.assert_allclose(one, to_vector(truth), atol=1e-5, rtol=1e-4)
    assert np.abs(one - others[0]).max() > 1e-3


def test_both_heads_share_one_clip() -> None:
    model, inputs, labels = linear()
    before = to_vector(model)
    clip = 1e-3
    dpsgd.train(
        model,
        inputs[:1],
        labels[:1],
        loss,
        RecordMechanism(clip, SILENT, 1.0, 1, 1),
        steps=1,
        learning_rate=1.0,
        sampler=Stream.seeded(0),
        noise=Stream.fresh(),
    )
    moved = (to_vector(model) - before).astype(np.float64)
    assert np.linalg.norm(moved) == pytest.approx(clip, rel=0.01)
    assert np.abs(moved[-18:]).max() > 0 and np.abs(moved[35:53]).max() > 0


def test_an_empty_poisson_sample_is_a_step_of_pure_noise() -> None:
    model, inputs, labels = linear()
    before = to_vector(model)
    arguments = {
        "steps": 4,
        "learning_rate": 0.5,
        "sampler": Stream.seeded(0),
    }
    mechanism = RecordMechanism(1.0, SILENT, 1e-9, 4, 1)
    noise = Stream.fresh()
    dpsgd.train(model, inputs, labels, loss, mechanism, noise=noise, **arguments)  # type: ignore[arg-type]
    np.testing.assert_allclose(to_vector(model), before, atol=1e-5)
    loud = RecordMechanism(1.0, 1.0, 1e-9, 4, 1)
    dpsgd.train(model, inputs, labels, loss, loud, noise=noise, **arguments)  # type: ignore[arg-type]
    moved = to_vector(model) - before
    # Four steps of 0.5 N(0, 1): standard deviation 1 on each of 71 values.
    assert 0.7 < moved.std() < 1.3


def test_a_sample_can_be_empty_between_others() -> None:
    model, inputs, labels = linear()
    truth = copy.deepcopy(model)
    mechanism = RecordMechanism(0.5, SILENT, 0.05, 30, 1)
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        mechanism,
        steps=30,
        learning_rate=0.1,
        sampler=Stream.seeded(9),
        noise=Stream.fresh(),
    )
    sizes = by_single_records(truth, inputs, labels, mechanism, 30, 0.1, Stream.seeded(9))
    assert 0 in sizes and max(sizes) > 0
    np.testing.assert_allclose(to_vector(model), to_vector(truth), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [linear, convolutional])
def test_noise_lies_on_every_coordinate_with_the_promised_deviation(
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]],
) -> None:
    model, inputs, labels = make()
    repeats, rate, batch = 60, 0.25, 7
    mechanism = RecordMechanism(0.3, 5.0, 1.0, repeats, batch)
    quiet = RecordMechanism(0.3, SILENT, 1.0, repeats, batch)
    start = copy.deepcopy(model)
    _, noise = dpsgd.entropy(-1)

    def step(mechanism: RecordMechanism, generator: Stream) -> np.ndarray:
        trained = copy.deepcopy(start)
        dpsgd.train(
            trained,
            inputs,
            labels,
            loss,
            mechanism,
            steps=1,
            learning_rate=rate,
            sampler=Stream.seeded(0),
            noise=generator,
        )
        return to_vector(trained).astype(np.float64)

    mean = step(quiet, Stream.fresh())
    count = 60 if mean.size < 1000 else 12
    draws = np.stack([step(mechanism, noise) for _ in range(count)]) - mean
    promised = mechanism.noise_std / batch * rate
    squares = (draws / promised) ** 2
    # A sum of n squared standard normals has mean n and variance 2 n; six deviations allow 1e-9.
    n = squares.size
    assert abs(squares.sum() - n) < 6 * math.sqrt(2 * n)
    by_coordinate = squares.sum(axis=0)
    assert by_coordinate.min() > 0.0
    # Neither steps nor coordinates repeat each other.
    if mean.size < 1000:
        assert by_coordinate.min() > 0.25 * count and by_coordinate.max() < 3.0 * count
        flat = draws / promised
        assert abs((flat[1:] * flat[:-1]).mean()) < 6 / math.sqrt(flat[1:].size)
        assert abs((flat[:, 1:] * flat[:, :-1]).mean()) < 6 / math.sqrt(flat[:, 1:].size)


def noised(simulate_seed: int, *keys: int) -> np.ndarray:
    model, inputs, labels = linear()
    torch.manual_seed(0)
    np.random.seed(0)
    sampler, noise = dpsgd.entropy(simulate_seed, *keys)
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        RecordMechanism(1.0, 1.0, 0.5, 2, 4),
        steps=2,
        learning_rate=0.1,
        sampler=sampler,
        noise=noise,
    )
    return to_vector(model)


def test_global_seeds_cannot_repeat_the_noise() -> None:
    assert not np.array_equal(noised(-1, 1, 2), noised(-1, 1, 2))
    state = torch.random.get_rng_state()
    dpsgd.entropy(-1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_a_simulation_seed_repeats_and_each_round_and_site_has_its_own() -> None:
    np.testing.assert_array_equal(noised(3, 1, 2), noised(3, 1, 2))
    for other in ((3, 1, 3), (3, 2, 2), (4, 1, 2)):
        assert not np.array_equal(noised(3, 1, 2), noised(*other))


def test_poisson_batch_sizes_are_binomial() -> None:
    n, rate, draws = 400, 0.05, 3000
    rng = Stream.seeded(11)
    samples = [dpsgd.poisson_sample(n, rate, rng) for _ in range(draws)]
    sizes = np.array([len(s) for s in samples])
    variance = n * rate * (1 - rate)
    assert abs(sizes.mean() - n * rate) < 5 * math.sqrt(variance / draws)
    # A fixed batch size has variance 0, sampling with replacement another one.
    assert 0.88 < sizes.var() / variance < 1.12
    counts = np.bincount(np.concatenate(samples), minlength=n)
    assert abs(counts.mean() / draws - rate) < 0.002
    assert counts.min() > 0.5 * rate * draws and counts.max() < 1.5 * rate * draws
    assert all((np.diff(s) > 0).all() for s in samples)


def test_a_sample_above_the_cap_is_cut_to_a_random_subset_of_it() -> None:
    n, rate, cap, draws = 40, 0.3, 12, 4000
    rng, again = Stream.seeded(7), Stream.seeded(8)
    samples = [dpsgd.poisson_sample(n, rate, rng, cap) for _ in range(draws)]
    sizes = np.array([len(s) for s in samples])
    uncut = np.array([len(dpsgd.poisson_sample(n, rate, again)) for _ in range(draws)])
    assert sizes.max() == cap < uncut.max()
    # Samples below the cap are as they were; all of the others have its size.
    for size in (8, 10, 11):
        assert abs((sizes == size).mean() - (uncut == size).mean()) < 0.035
    assert abs((sizes == cap).mean() - (uncut >= cap).mean()) < 0.05
    # No record is cut more often than another: within five deviations of the mean count.
    counts = np.bincount(np.concatenate(samples), minlength=n)
    share = sizes.mean() / n
    assert np.abs(counts - draws * share).max() < 5 * math.sqrt(draws * share * (1 - share))
    assert all((np.diff(s) > 0).all() for s in samples)


def test_a_cap_that_is_not_reached_changes_nothing() -> None:
    for cap in (0, 40):
        rng, plain = Stream.seeded(3), Stream.seeded(3)
        for _ in range(20):
            np.testing.assert_array_equal(
                dpsgd.poisson_sample(40, 0.3, rng, cap), dpsgd.poisson_sample(40, 0.3, plain)
            )
        assert rng.words(1) == plain.words(1)


def test_training_takes_no_more_records_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels = linear()
    before = to_vector(model)
    seen: list[int] = []
    norms = ModelGradients.norms

    def counting(gradients: ModelGradients, rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return norms(gradients, rows)

    block_of(model, inputs, loss, 1)
    monkeypatch.setattr(ModelGradients, "norms", counting)
    mechanism = RecordMechanism(0.01, SILENT, 0.9, 20, 1, max_batch=5, max_records=12)
    arguments = {"steps": 20, "learning_rate": 1.0, "noise": Stream.fresh()}
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        mechanism,
        sampler=Stream.seeded(1),
        **arguments,  # type: ignore[arg-type]
    )
    assert seen == [5] * 20
    assert np.linalg.norm(to_vector(model) - before) <= 20 * 5 * 0.01 * 1.001


def test_a_site_with_more_records_than_the_cap_was_accounted_for_is_refused() -> None:
    model, inputs, labels = linear()
    mechanism = RecordMechanism(1.0, 1.0, 0.5, 1, 1, max_batch=5, max_records=11)
    with pytest.raises(ValueError, match=r"max_records: must be at least .* got 11 for 12"):
        dpsgd.train(
            model,
            inputs,
            labels,
            loss,
            mechanism,
            steps=1,
            learning_rate=0.1,
            sampler=Stream.seeded(0),
            noise=Stream.fresh(),
        )


def test_rate_one_takes_every_record() -> None:
    assert dpsgd.poisson_sample(5, 1.0, Stream.seeded(0)).tolist() == [0, 1, 2, 3, 4]


def test_batch_norm_is_refused_and_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match=r"BatchNorm|batch"):
        check_model(model)
    with pytest.raises(ValueError, match="use GroupNorm"):
        dpsgd.train(
            model,
            torch.zeros(1, 1, 8, 8),
            torch.zeros(1, dtype=torch.int64),
            loss,
            RecordMechanism(1.0, 1.0, 1.0, 1, 1),
            steps=1,
            learning_rate=0.1,
            sampler=Stream.seeded(0),
            noise=Stream.fresh(),
        )


def test_no_hook_is_left_behind() -> None:
    model, inputs, labels = linear()
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        RecordMechanism(1.0, 1.0, 1.0, 1, 1),
        steps=1,
        learning_rate=0.1,
        sampler=Stream.seeded(0),
        noise=Stream.fresh(),
    )
    for module in model.modules():
        assert not module._forward_hooks and not module._backward_hooks
    model(inputs)


def step_with(value: float, rows: list[int]) -> np.ndarray:
    """One step without noise on 12 records of which number 3 holds `value`."""
    model, x, y = linear()
    x = x.clone()
    x[3] = value
    dpsgd.train(
        model,
        x[rows],
        y[rows],
        loss,
        RecordMechanism(0.5, SILENT, 1.0, steps=1, expected_batch=4),
        steps=1,
        learning_rate=0.5,
        sampler=Stream.seeded(1),
        noise=Stream.seeded(1),
    )
    return to_vector(model).astype(np.float64)


EVERYBODY = list(range(12))
WITHOUT = [row for row in EVERYBODY if row != 3]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero(value: float) -> None:
    """A hostile model can choose which record overflows: the step must not fail for it."""
    found = step_with(value, EVERYBODY)
    np.testing.assert_allclose(found, step_with(value, WITHOUT), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_a_huge_record_moves_the_sum_by_no_more_than_the_clip(value: float) -> None:
    moved = np.linalg.norm(step_with(value, EVERYBODY) - step_with(value, WITHOUT))
    assert 0.0 < moved <= 0.5 * 0.5 / 4 * 1.001


def test_a_bad_record_takes_no_pass_more_than_a_good_one() -> None:
    """A second pass for it took twice the time: whether a record is there could be read off."""
    shapes = []
    for value in (0.5, float("nan")):
        model, x, y = linear()
        x = x.clone()
        x[3] = value
        passes: list[tuple[int, ...]] = []
        model.register_forward_hook(lambda m, given, o, p=passes: p.append(tuple(given[0].shape)))
        gradients = ModelGradients(model, x, y, loss)
        with gradients:
            dpsgd.noised_sum(
                gradients, np.arange(12), RecordMechanism(0.5, 1.0, 1.0, 1, 4), Stream.fresh()
            )
        shapes.append(passes)
    assert shapes[0] == shapes[1] == [(32, 6)]
