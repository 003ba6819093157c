"""Attacks on a step's release by somebody who knows the code and all records but one."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from fedlite.models import build
from fedlite.parameters import load_vector, to_vector
from fedlite.privacy import ClientMechanism, RecordMechanism, accounting, client, dpsgd
from fedlite.privacy.dpsgd import noised_sum
from fedlite.privacy.gradients import ModelGradients
from fedlite.privacy.grid import fine_cell, grid
from fedlite.privacy.noise import Stream, release
from fedlite.privacy.trial import block_of
from fedlite.tasks import joint, make


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return joint(make("classification"), exit_weight=0.4)(outputs, labels)


def records(name: str, shape: tuple[int, ...], count: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(4)
    model = build(name, shape, 10, seed=1)
    with torch.no_grad():
        return model, model.prepare(torch.rand(count, *shape)), torch.randint(0, 10, (count,))


def sum_of_the_others(model: nn.Module, x: Tensor, y: Tensor, first: int) -> np.ndarray:
    """The sum of clipped gradients of all records but number 0, in a step on those from `first`."""
    rows = np.arange(first, len(y))
    with ModelGradients(model, x, y, loss, block_of(model, x, y, loss, len(y))) as gradients:
        norms = gradients.norms(rows)
        factors = np.where(np.isfinite(norms), 1.0 / np.maximum(norms, 1.0), 0.0)
        factors[rows == 0] = 0.0
        return gradients.weighted(factors)


HOSTILE = [
    ("scatter", (1, 28, 28)),
    ("cosine", (1, 8, 8)),
    ("linear", (13,)),
    ("mlp", (13,)),
    ("cnn", (1, 8, 8)),
    ("cnn1d", (3, 32)),
]


@pytest.mark.parametrize(("name", "shape"), HOSTILE)
@pytest.mark.parametrize("count", [33, 70, 129])
def test_a_record_moves_the_others_by_no_more_than_the_room_for_arithmetic(
    name: str, shape: tuple[int, ...], count: int
) -> None:
    """Put first, it moves all others by a place, and for these counts into one block more.

    Scattering features sum to 0: under equal weights a logit is what rounding left over, and an
    order of summation that hung on the place moved the others' sum by 1.8 clips.
    """
    model, x, y = records(name, shape, count)
    for scale in (1.0, 1e4, 1e8):
        with torch.no_grad():
            for at, parameter in enumerate(model.parameters()):
                parameter.normal_(0.0, scale)
                if name == "scatter":
                    parameter.zero_()[at : at + 2] = torch.tensor([[scale], [-scale]])
        moved = sum_of_the_others(model, x, y, 0) - sum_of_the_others(model, x, y, 1)
        assert np.linalg.norm(moved) < 2.0**-20 / 1000


def test_a_record_moves_the_sum_by_one_clip_where_a_loop_leaves_values_over() -> None:
    """Weights that make of a sigmoid's last bit a gradient, which the others' order decides on.

    What a loop over 32 values at once leaves over is rounded otherwise, for few values, so that a
    trial on others passes: by fours, 76 records of three labels had a last place, and one record
    more moved the sum by 3.4 clips.
    """
    model, task, clip = build("mlp", (1, 8, 8), 3, seed=1), make("multilabel"), 1e-3

    def several(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        return task.loss(outputs[0], labels) + task.loss(outputs[1], labels)

    block = block_of(model, torch.rand(3, 1, 8, 8), task.made_up(3, 3), several, 57)
    values = torch.linspace(0.5, 1.5, 32_000)
    left_over = torch.cat([torch.sigmoid(some) for some in values.split(10)])
    head: nn.Linear = model.exit[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        head.weight[0], head.weight[2] = -1e6, 1e6
        head.bias[::2] = values[(left_over - torch.sigmoid(values)).argmax()]

    def total(records: list[tuple[float, float]]) -> np.ndarray:
        told = torch.tensor(records)
        inputs = told[:, :1].expand(-1, 64).reshape(-1, 1, 8, 8).contiguous()
        labels = told[:, 1:].expand(-1, 3).contiguous()
        with ModelGradients(model, inputs, labels, several, block) as gradients:
            return dpsgd.clipped_sum(gradients, np.arange(len(records)), clip)

    for last in ((-1.0, 0.0), (-1.0, 1.0), (1.0, 0.0)):
        others = [(-1.0, 0.0)] * (block - 2) + [(1.0, 1.0), last]
        for first in ((-1.0, 1.0), (0.0, 1.0)):
            moved = total([first, *others]) - total(others)
            assert np.linalg.norm(moved) < clip * (1 + 2.0**-20)


@pytest.mark.parametrize(("name", "shape"), [("linear", (13,)), ("cnn", (1, 8, 8))])
def test_what_leaves_is_a_function_of_what_was_released(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other records and the same releases give the same bits: nothing clean passes by them."""
    model, x, y = records(name, shape, 40)
    start, mechanism, honest = to_vector(model), RecordMechanism(0.1, 2.0, 1.0, 3, 20), noised_sum

    def deltas(rows: slice) -> np.ndarray:
        load_vector(model, start)
        sampler, noise = dpsgd.entropy(-1)
        dpsgd.train(
            model,
            x[rows],
            y[rows],
            loss,
            mechanism,
            steps=3,
            learning_rate=0.7,
            sampler=sampler,
            noise=noise,
        )
        return to_vector(model) - start

    told: list[np.ndarray] = []

    def remembering(*given: object) -> np.ndarray:
        told.append(honest(*given))  # type: ignore[arg-type]
        return told[-1]

    monkeypatch.setattr(dpsgd, "noised_sum", remembering)
    first = deltas(slice(0, 20))
    assert len(told) == 3
    moved = start
    for values in told:
        cells = np.rint(values / grid(mechanism.noise_std))
        np.testing.assert_array_equal(cells * grid(mechanism.noise_std), values)
        moved = (moved.astype(np.float64) - 0.7 / 20 * values).astype(np.float32)
    # To the rounding of float64: a fused product may differ from two operations.
    np.testing.assert_allclose(moved - start, first, rtol=0, atol=1e-6 * abs(start).max())
    again = iter(told)
    monkeypatch.setattr(dpsgd, "noised_sum", lambda *given: next(again))
    np.testing.assert_array_equal(deltas(slice(20, 40)), first)


@pytest.mark.long
def test_no_bit_of_a_release_tells_better_than_its_value() -> None:
    """One step with or without the first record at epsilon 0.25, 1,000 times each."""
    model, x, y = records("linear", (13,), 41)
    start, batch, rate = to_vector(model), 40, 10.0
    sigma = accounting.calibrate(0.25, 1e-5, 1.0, 1)
    mechanism = RecordMechanism(0.1, sigma, 1.0, 1, batch)

    def deltas(first: int) -> np.ndarray:
        found = []
        for _ in range(1000):
            load_vector(model, start)
            sampler, noise = dpsgd.entropy(-1)
            dpsgd.train(
                model,
                x[first:],
                y[first:],
                loss,
                mechanism,
                steps=1,
                learning_rate=rate,
                sampler=sampler,
                noise=noise,
            )
            found.append(to_vector(model) - start)
        return np.stack(found)

    def told(values: np.ndarray) -> dict[str, np.ndarray]:
        cells = np.rint(values.astype(np.float64) / (rate / batch * grid(mechanism.noise_std)))
        whole, words = cells.astype(np.int64), values.view(np.uint32)
        return {
            **{f"bit {bit} of the cell": (whole >> bit & 1).sum(1) for bit in range(9)},
            **{f"bit {bit} of the float": (words >> bit & 1).sum(1) for bit in range(12)},
            **{f"multiples of {m}": (whole % m == 0).sum(1) for m in (3, 5, 7, 2048)},
            "zeros": (whole == 0).sum(1),
            "common divisor": np.gcd.reduce(whole, axis=1),
            "exclusive or": np.bitwise_xor.reduce(whole, axis=1) & 255,
            "largest": abs(whole).max(1),
            "length": (cells**2).sum(1),
        }

    with_it, without = told(deltas(0)), told(deltas(1))
    for name, ones in with_it.items():
        assert stats.ks_2samp(ones, without[name], method="asymp").pvalue > 1e-6, name


def test_two_updates_of_one_site_stay_within_twice_the_clip_when_rounded() -> None:
    """Opposite updates, on the edge between two cells in every coordinate: the worst rounding."""

    class Silent(Stream):
        def gaussians(self, count: int) -> np.ndarray:
            return np.zeros(count, np.int64)

    mechanism = ClientMechanism(clip=1.0, noise_multiplier=5.0, steps=1, at="site")
    n = 5000
    cell, bound = fine_cell(mechanism.noise_std), mechanism.clip_bound(n)
    one = np.full(n, bound / np.sqrt(n))
    one = (np.floor(one / cell) - 0.5 + 1e-6) * cell
    one[0] = np.sqrt(bound**2 - (one[1:] ** 2).sum())
    cells = np.rint(one / cell) - np.rint(-one / cell)
    assert np.linalg.norm(one) <= bound * (1 + 1e-12)
    assert np.linalg.norm(cells) * cell <= mechanism.sensitivity
    released = [release(sign * one, mechanism.noise_std, Silent.fresh()) for sign in (1, -1)]
    # The coarse cells, 2^11 fine ones wide, are made of the sum with its noise only.
    assert np.abs(released[0] - one).max() <= 2.0**10 * cell * (1 + 1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_stream_is_never_used_twice() -> None:
    stream = Stream.fresh()
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(stream)
    child = os.fork()
    if child == 0:
        # Nothing of the test suite may run on in the child.
        try:
            stream.words(1)
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert stream.words(1).size == 1


def test_client_noise_comes_from_a_fresh_key_each_time() -> None:
    keys = {client.entropy(-1, 1, 2).words(2).tobytes() for _ in range(50)}
    keys |= {stream.words(2).tobytes() for _ in range(50) for stream in dpsgd.entropy(-1, 1, 2)}
    assert len(keys) == 150
