"""A private step equals a loop over single records, and leaves the model as it was."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedlite.models import build
from fedlite.parameters import to_vector
from fedlite.privacy import RecordMechanism, dpsgd, gradients
from fedlite.privacy.gradients import check_model
from fedlite.privacy.noise import Stream
from tests.privacy.small import SILENT, convolutional, linear, loss


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
            value = loss(model(inputs[row : row + 1]), labels[row : row + 1]).sum()
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
    # Even silent noise has a tail, and there are thousands of coordinates.
    tail = 7 * SILENT * clip * 0.5 / 4 * math.sqrt(3)
    np.testing.assert_allclose(to_vector(model), to_vector(truth), atol=1e-5 + tail, rtol=1e-4)
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


def test_a_model_of_float64_is_refused() -> None:
    """Its gradients can be so short that their squares, multiplied, are 0: clipped to nothing."""
    with pytest.raises(ValueError, match=r"'1\.weight' is float64"):
        check_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    frozen = nn.Sequential(nn.Linear(2, 2).double().requires_grad_(False), nn.Linear(2, 2))
    check_model(frozen)


def test_opacus_is_loaded_for_what_it_judges_and_no_more() -> None:
    """It takes as long to load as all else that a model needs."""
    code = """
import sys
from torch import nn
from fedlite.models import build
from fedlite.privacy.gradients import ModelGradients, check_model
import fedlite.training.noised, torch
model = build("cnn", (1, 28, 28), 10, seed=1)
check_model(model)
given = model.prepare(torch.rand(3, 1, 28, 28)), torch.zeros(3, dtype=torch.int64)
loss = lambda outputs, labels: nn.functional.cross_entropy(outputs[0], labels, reduction="none")
with ModelGradients(model, *given, loss) as gradients:
    gradients.norms(torch.arange(3).numpy())
print("opacus" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_whatever_opacus_judges_is_handed_to_it() -> None:
    """A module that it refuses may have no values of its own: its type alone decides."""
    assert ModuleValidator.VALIDATORS
    for kind in ModuleValidator.VALIDATORS:
        assert kind not in gradients._SOUND and kind.__module__.startswith("torch.")
    with pytest.raises(ValueError, match="BatchNorm"):
        check_model(nn.Sequential(nn.BatchNorm1d(3, affine=False, track_running_stats=False)))

    class Own(nn.InstanceNorm1d):
        """Mixes no records in training, and its running statistics do."""

    with pytest.raises(ValueError, match="'0' is InstanceNorm1d"):
        check_model(nn.Sequential(Own(3, track_running_stats=True)))


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
