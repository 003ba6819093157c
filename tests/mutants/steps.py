"""Mutants of the private step: how records are sampled, clipped, summed, noised and divided.

Each is a function that spoils the real code through a `pytest.MonkeyPatch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedlite.compression import top_k
from fedlite.privacy import RecordMechanism, client, dpsgd
from fedlite.privacy.dpsgd import poisson_sample
from fedlite.privacy.gradients import ModelGradients, Rows
from fedlite.privacy.noise import Stream, release
from tests.tiny import EXIT

Patch = pytest.MonkeyPatch
Values = NDArray[np.float64]
Release = Callable[[Values, float, Stream], Values]


def releasing(patch: Patch, spoilt: Release) -> None:
    """Put `spoilt` wherever a sum or an update is noised."""
    for module in (dpsgd, client):
        patch.setattr(module, "release", spoilt)

    def each(totals: Values, std: float, streams: Sequence[Stream]) -> Values:
        return np.stack([spoilt(*one) for one in zip(totals, repeat(std), streams, strict=False)])

    patch.setattr(dpsgd, "releases", each)


def no_noise(patch: Patch) -> None:
    releasing(patch, lambda total, std, stream: total.copy())


def none_on_the_last_coordinate(patch: Patch) -> None:
    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        return np.append(release(total, std, stream)[:-1], total[-1])

    releasing(patch, spoilt)


def none_on_the_exit_head(patch: Patch) -> None:
    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        return np.concatenate([total[:EXIT], release(total, std, stream)[EXIT:]])

    releasing(patch, spoilt)


def half_the_noise(patch: Patch) -> None:
    releasing(patch, lambda total, std, stream: release(total, std / 2, stream))


def noise_over_the_root_of_two(patch: Patch) -> None:
    releasing(patch, lambda total, std, stream: release(total, std / math.sqrt(2), stream))


def float_noise(patch: Patch) -> None:
    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        return total + std * torch.randn(total.size).double().numpy()

    releasing(patch, spoilt)


def the_same_noise_every_step(patch: Patch) -> None:
    drawn: WeakKeyDictionary[Stream, Values] = WeakKeyDictionary()

    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        if stream not in drawn:
            drawn[stream] = release(np.zeros_like(total), std, stream)
        return release(total, 1e-6 * std, stream) + drawn[stream]

    releasing(patch, spoilt)


def the_same_noise_every_round(patch: Patch) -> None:
    drawn: dict[int, Values] = {}

    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        if total.size not in drawn:
            drawn[total.size] = release(np.zeros_like(total), std, stream)
        return release(total, 1e-6 * std, stream) + drawn[total.size]

    releasing(patch, spoilt)


def noise_on_selected_coordinates_only(patch: Patch) -> None:
    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        chosen = largest(total)
        found = total.copy()
        found[chosen] = release(total, std, stream)[chosen]
        return found

    releasing(patch, spoilt)


def top_k_before_the_noise(patch: Patch) -> None:
    def spoilt(total: Values, std: float, stream: Stream) -> Values:
        chosen = largest(total)
        found = np.zeros_like(total)
        found[chosen] = release(total, std, stream)[chosen]
        return found

    releasing(patch, spoilt)


def largest(total: Values) -> NDArray[np.intp]:
    """Return the places of the largest tenth of a clean sum."""
    return np.asarray(top_k(total.astype(np.float32), total.size // 10), np.intp)


def drawing(patch: Patch, record: Callable[..., Any], whole: Callable[..., Any] | None) -> None:
    """Replace where the streams of a record's steps, and of a client's update, come from."""
    patch.setattr(dpsgd, "entropy", record)
    if whole is not None:
        patch.setattr(client, "entropy", whole)


def noise_from_a_public_seed(patch: Patch) -> None:
    drawing(
        patch,
        lambda seed, *keys: (Stream.fresh(), Stream.seeded("noise", 5, *keys)),
        lambda seed, *keys: Stream.seeded("client", 5, *keys),
    )


def noise_from_the_global_seed_of_torch(patch: Patch) -> None:
    def stream() -> Stream:
        return Stream.seeded(int(torch.randint(2**62, ())))

    drawing(patch, lambda seed, *keys: (Stream.fresh(), stream()), lambda seed, *keys: stream())


def sampler_from_a_public_seed(patch: Patch) -> None:
    drawing(patch, lambda seed, *keys: (Stream.seeded(5, *keys), Stream.fresh()), None)


# Samples.


def sampling(patch: Patch, spoilt: Callable[[int, float, Stream], Rows]) -> None:
    patch.setattr(dpsgd, "poisson_sample", lambda n, rate, sampler, cap=0: spoilt(n, rate, sampler))


def every_record_in_every_step(patch: Patch) -> None:
    sampling(patch, lambda n, rate, sampler: np.arange(n))


def shuffled_sampler(patch: Patch) -> None:
    """Batches of a size that varies as it should, from one shuffled order after the other."""
    waiting: WeakKeyDictionary[Stream, list[int]] = WeakKeyDictionary()

    def spoilt(n: int, rate: float, sampler: Stream) -> Rows:
        size = len(poisson_sample(n, rate, sampler))
        left = waiting.setdefault(sampler, [])
        if len(left) < size:
            left.extend(np.argsort(sampler.words(n)).tolist())
        taken = [left.pop(0) for _ in range(size)]
        return np.array(sorted(set(taken)), np.int64)

    sampling(patch, spoilt)


def fixed_size_sampler(patch: Patch) -> None:
    def spoilt(n: int, rate: float, sampler: Stream) -> Rows:
        return np.sort(np.argsort(sampler.words(n))[: max(1, round(n * rate))])

    sampling(patch, spoilt)


def empty_batches_skipped(patch: Patch) -> None:
    def spoilt(n: int, rate: float, sampler: Stream) -> Rows:
        while not len(found := poisson_sample(n, rate, sampler)):
            pass
        return found

    sampling(patch, spoilt)


def empty_batches_not_noised(patch: Patch) -> None:
    noised = dpsgd.noised_sum

    def spoilt(gradients: Any, rows: Rows, mechanism: RecordMechanism, noise: Stream) -> Values:
        found = noised(gradients, rows, mechanism, noise)
        return found if len(rows) else np.zeros_like(found)

    patch.setattr(dpsgd, "noised_sum", spoilt)


# Clips and divisors.

Summing = Callable[[ModelGradients, Rows, RecordMechanism], Values]


def summing(patch: Patch, spoilt: Summing) -> None:
    """Replace how a batch becomes a clean sum; the noise stays as it is."""

    def noised(
        gradients: ModelGradients, rows: Rows, mechanism: RecordMechanism, noise: Stream
    ) -> Values:
        return release(spoilt(gradients, rows, mechanism), mechanism.noise_std, noise)

    patch.setattr(dpsgd, "noised_sum", noised)


def cut(norms: Values, bound: float) -> Values:
    return np.where(np.isfinite(norms), bound / np.maximum(norms, bound), 0.0)


def no_clip(patch: Patch) -> None:
    patch.setattr(client, "_cut", lambda update, bound: None)
    summing(patch, lambda g, rows, mechanism: g.weighted(np.ones_like(g.norms(rows))))


def clip_after_averaging(patch: Patch) -> None:
    def spoilt(gradients: ModelGradients, rows: Rows, mechanism: RecordMechanism) -> Values:
        total = gradients.weighted(np.ones_like(gradients.norms(rows)))
        return total * cut(np.linalg.norm(total), mechanism.clip_bound(gradients.size))

    summing(patch, spoilt)


def clip_by(patch: Patch, group: Callable[[str], str]) -> None:
    def spoilt(gradients: ModelGradients, rows: Rows, mechanism: RecordMechanism) -> Values:
        bound, size = mechanism.clip_bound(gradients.size), gradients._block
        gradients.norms(rows)
        model: nn.Module = gradients._model
        names = [group(name) for name, p in model.named_parameters() if p.requires_grad]
        there = gradients._padded(np.ones(len(rows)))
        total = [np.zeros(p.numel()) for p in gradients.parameters]
        for at, parts in enumerate(gradients._blocks):
            squares: dict[str, Any] = {}
            for name, part in zip(names, parts, strict=True):
                if part is not None:
                    squares[name] = squares.get(name, 0.0) + part.squares()
            for piece, name, part in zip(total, names, parts, strict=True):
                if part is not None:
                    factors = cut(squares[name].sqrt().detach().numpy(), bound)
                    factors *= there[at * size : (at + 1) * size]
                    piece += part.weighted(torch.from_numpy(factors)).detach().numpy()
        return np.concatenate(total)

    summing(patch, spoilt)


def clip_per_layer(patch: Patch) -> None:
    clip_by(patch, lambda name: name)


def clip_per_branch(patch: Patch) -> None:
    clip_by(patch, lambda name: name.split(".")[0])


def noise_divided_by_the_batch_twice(patch: Patch) -> None:
    noised = dpsgd.noised_sum

    def spoilt(gradients: Any, rows: Rows, mechanism: RecordMechanism, noise: Stream) -> Values:
        sigma = mechanism.noise_multiplier / mechanism.expected_batch
        return noised(gradients, rows, replace(mechanism, noise_multiplier=sigma), noise)

    patch.setattr(dpsgd, "noised_sum", spoilt)


def divided_by_the_real_batch(patch: Patch) -> None:
    noised = dpsgd.noised_sum

    def spoilt(gradients: Any, rows: Rows, mechanism: RecordMechanism, noise: Stream) -> Values:
        found = noised(gradients, rows, mechanism, noise)
        return found * mechanism.expected_batch / max(1, len(rows))

    patch.setattr(dpsgd, "noised_sum", spoilt)
