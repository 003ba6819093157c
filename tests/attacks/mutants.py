"""Mechanisms that are wrong, to be put in the place of the real one. For tests only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedlite.privacy import RecordMechanism, client, dpsgd, gradients
from fedlite.privacy.grid import grid
from fedlite.privacy.noise import Stream, release
from fedlite.training import share
from tests.attacks.ground import FloatNoise

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
EXIT = 330  # values of the small model's exit head, at its start or wherever: any stretch does


def _sum(change: Callable[..., np.ndarray]) -> Mutant:
    """Return a mutant of `noised_sum`: change(gradients, factors, norms, mechanism, noise)."""

    def patch(monkeypatch: Patch) -> None:
        def noised_sum(
            real: Any, rows: np.ndarray, mechanism: RecordMechanism, noise: Stream
        ) -> np.ndarray:
            bound = mechanism.clip_bound(real.size)
            norms = real.norms(rows)
            factors = np.where(np.isfinite(norms), bound / np.maximum(norms, bound), 0.0)
            return change(real, factors, norms, mechanism, noise)

        monkeypatch.setattr(dpsgd, "noised_sum", noised_sum)

    return patch


def _noise(change: Callable[[np.ndarray, float, Stream], np.ndarray]) -> Mutant:
    """Return a mutant of the release: change(clean sum, deviation, stream)."""
    return _sum(
        lambda real, factors, norms, m, noise: change(real.weighted(factors), m.noise_std, noise)
    )


def _without(stretch: slice) -> Mutant:
    def change(total: np.ndarray, std: float, noise: Stream) -> np.ndarray:
        released = release(total, std, noise)
        released[stretch] = np.rint(total[stretch] / grid(std)) * grid(std)
        return released

    return _noise(change)


def _selected(total: np.ndarray, std: float, noise: Stream) -> np.ndarray:
    released = release(total, std, noise)
    quiet = np.argsort(np.abs(total))[: total.size // 2]
    released[quiet] = np.rint(total[quiet] / grid(std)) * grid(std)
    return released


def _top_k_first(total: np.ndarray, std: float, noise: Stream) -> np.ndarray:
    kept = np.zeros_like(total)
    best = np.argsort(-np.abs(total))[: max(1, total.size // 10)]
    kept[best] = total[best]
    return release(kept, std, noise)


def _clip_after(
    real: Any, factors: np.ndarray, norms: np.ndarray, m: Any, noise: Stream
) -> np.ndarray:
    total = real.weighted(np.ones_like(factors))
    bound = m.clip * max(1, len(factors))
    return release(total * min(1.0, bound / max(np.linalg.norm(total), 1e-300)), m.noise_std, noise)


def _by_part(groups: Callable[[int], list[slice]]) -> Mutant:
    """Return gradients whose parts (tensors, branches) are clipped one by one."""

    def patch(monkeypatch: Patch) -> None:
        real = gradients.ModelGradients._pass

        def one_block(self: gradients.ModelGradients, inputs: Any, labels: Any) -> Any:
            found = real(self, inputs, labels)
            parts = [part.squares() for part in self._blocks[-1] if part is not None]
            # A record is divided by its largest part's norm instead of that of all together.
            largest = torch.stack([sum(parts[s]) for s in groups(len(parts))]).amax(0)
            return torch.where(torch.isfinite(found), largest, found)

        monkeypatch.setattr(gradients.ModelGradients, "_pass", one_block)

    return patch


def _fixed_batch(n: int, rate: float, sampler: Stream, cap: int = 0) -> np.ndarray:
    order = np.argsort(sampler.words(n), kind="stable")
    return np.sort(order[: round(rate * n)])


def _shuffled(monkeypatch: Patch) -> None:
    left: list[np.ndarray] = []

    def sample(n: int, rate: float, sampler: Stream, cap: int = 0) -> np.ndarray:
        if not left:
            order, size = np.argsort(sampler.words(n), kind="stable"), round(rate * n)
            left.extend(order[at : at + size] for at in range(0, n, size))
        return np.sort(left.pop())

    monkeypatch.setattr(dpsgd, "poisson_sample", sample)


def _train(
    rate: Callable[[float, int, Any], float],
    *,
    more: int = 0,
    skip: bool = False,
    sample: Any = None,
) -> Mutant:
    """Return a mutant of the training loop: another divisor, more steps, empty batches skipped."""

    def patch(monkeypatch: Patch) -> None:
        def train(
            model: Any,
            inputs: Any,
            labels: Any,
            loss: Any,
            mechanism: Any,
            *,
            steps: int,
            learning_rate: float,
            sampler: Stream,
            noise: Stream,
            after: Any = None,
        ) -> None:
            with gradients.ModelGradients(model, inputs, labels, loss) as real:
                sizes = [p.numel() for p in real.parameters]
                for _ in range(steps + more):
                    draw = sample or dpsgd.poisson_sample
                    rows = draw(len(labels), mechanism.sampling_rate, sampler)
                    if skip and not len(rows):
                        continue
                    moved = torch.from_numpy(dpsgd.noised_sum(real, rows, mechanism, noise))
                    alpha = rate(learning_rate, len(rows), mechanism)
                    with torch.no_grad():
                        pieces = torch.split(moved, sizes)
                        for parameter, piece in zip(real.parameters, pieces, strict=True):
                            parameter.sub_(piece.view_as(parameter), alpha=alpha)

        monkeypatch.setattr(dpsgd, "train", train)

    return patch


def _half_in_the_learner(monkeypatch: Patch) -> None:
    real = share.Learner.share

    def spoilt(self: Any, received: Any, number: int, site: int, mechanism: Any, *kept: Any) -> Any:
        quieter = dataclasses.replace(mechanism, noise_multiplier=mechanism.noise_multiplier / 2)
        return real(self, received, number, site, quieter, *kept)

    monkeypatch.setattr(share.Learner, "share", spoilt)


def _twice_where_one_overflows(
    real: Any, rows: np.ndarray, mechanism: RecordMechanism, noise: Stream
) -> np.ndarray:
    """The steps as they were: a record that overflows is found, left out, and all is done again."""
    bound = mechanism.clip_bound(real.size)
    norms = real.norms(rows)
    while not np.isfinite(norms).all():
        rows = rows[np.isfinite(norms)]
        norms = real.norms(rows)
    return release(real.weighted(bound / np.maximum(norms, bound)), mechanism.noise_std, noise)


def _failing(real: Any, rows: np.ndarray, mechanism: RecordMechanism, noise: Stream) -> np.ndarray:
    norms = real.norms(rows)
    if not np.isfinite(norms).all():
        raise ValueError("training diverged")
    bound = mechanism.clip_bound(real.size)
    return release(real.weighted(bound / np.maximum(norms, bound)), mechanism.noise_std, noise)


def _set(target: Any, name: str, value: Any) -> Mutant:
    return lambda monkeypatch: monkeypatch.setattr(target, name, value)


def _float(total: np.ndarray, std: float, noise: Stream) -> np.ndarray:
    return FloatNoise().release(total, std)


def _plain(learning_rate: float, rows: int, mechanism: Any) -> float:
    return learning_rate / mechanism.expected_batch


RECORD: dict[str, tuple[Mutant, tuple[str, ...]]] = {
    "no noise": (_without(slice(None)), ("step", "noise deviation")),
    "no noise on the last coordinate": (_without(slice(-1, None)), ("noise deviation", "training")),
    "no noise on the exit head": (_without(slice(-EXIT, None)), ("noise deviation", "training")),
    "half of the noise": (
        _noise(lambda t, std, noise: release(t, std / 2, noise)),
        ("step", "noise deviation", "ledger", "training"),
    ),
    "a tenth less noise": (_noise(lambda t, std, noise: release(t, 0.9 * std, noise)), ("step",)),
    "noise over the root of two": (
        _noise(lambda t, std, noise: release(t, std / 2**0.5, noise)),
        ("step", "noise deviation", "ledger", "training"),
    ),
    "the same noise every step": (
        _noise(lambda t, std, noise: release(t, std, Stream.seeded(1))),
        ("noise independence",),
    ),
    "seeded noise": (
        _set(
            dpsgd, "entropy", lambda seed, *keys: (Stream.seeded(0, *keys), Stream.seeded(1, *keys))
        ),
        ("seeds",),
    ),
    "float noise": (_noise(_float), ("grid and low bits",)),
    "no clip": (
        _sum(
            lambda real, f, norms, m, noise: release(
                real.weighted(np.ones_like(f)), m.noise_std, noise
            )
        ),
        ("step", "clipped sum"),
    ),
    "clip after averaging": (_sum(_clip_after), ("step", "clipped sum")),
    "clip per layer": (_by_part(lambda n: [slice(i, i + 1) for i in range(n)]), ("clipped sum",)),
    "clip per branch": (_by_part(lambda n: [slice(0, n // 2), slice(n // 2, n)]), ("clipped sum",)),
    "sensitivity off by two": (
        _sum(lambda real, f, norms, m, noise: release(real.weighted(2 * f), m.noise_std, noise)),
        ("step", "clipped sum"),
    ),
    "divided by the batch twice": (
        _train(lambda lr, rows, m: lr / m.expected_batch**2),
        ("training",),
    ),
    "divided by the real batch": (_train(lambda lr, rows, m: lr / max(1, rows)), ("training",)),
    "one step more than reserved": (_train(_plain, more=1), ("training",)),
    "empty batches skipped": (_train(_plain, skip=True), ("training",)),
    "half of the noise in the learner": (_half_in_the_learner, ("training",)),
    "shuffled sampler": (_shuffled, ("sampler", "batches in training")),
    "batches of a fixed size": (
        _set(dpsgd, "poisson_sample", _fixed_batch),
        ("sampler", "batches in training"),
    ),
    "a sampler of its own in training": (
        _train(_plain, sample=lambda n, rate, sampler: np.arange(round(rate * n))),
        ("batches in training",),
    ),
    "a rate that is not used": (
        _set(dpsgd, "poisson_sample", lambda n, rate, sampler, cap=0: np.arange(n)),
        ("sampler", "ledger"),
    ),
    "noise only on selected coordinates": (_noise(_selected), ("noise deviation", "training")),
    "top-k before noise": (_noise(_top_k_first), ("clipped sum",)),
    "all again where a record overflows": (
        _set(dpsgd, "noised_sum", _twice_where_one_overflows),
        ("timing",),
    ),
    "a failure where a record overflows": (_set(dpsgd, "noised_sum", _failing), ("declines",)),
}
"""Name: the mutant, and the checks that each must fail on it."""


def _halved(real: Callable[..., Any]) -> Callable[..., Any]:
    def changed(what: Any, *rest: Any) -> Any:
        *others, mechanism, noise = rest
        quieter = dataclasses.replace(mechanism, noise_multiplier=mechanism.noise_multiplier / 2)
        return real(what, *others, quieter, noise)

    return changed


CLIENT: dict[str, tuple[str, Mutant, tuple[str, ...]]] = {
    "sensitivity off by two at the site": (
        "site",
        _set(client, "privatize", _halved(client.privatize)),
        ("step", "noise deviation", "training"),
    ),
    "clear updates": (
        "site",
        _set(client, "privatize", lambda update, mechanism, noise: update),
        ("noise deviation", "training"),
    ),
    "half of the noise at the server": (
        "server",
        _set(client, "noised_mean", _halved(client.noised_mean)),
        ("step", "noise deviation"),
    ),
    "no clip at the server": (
        "server",
        _set(client, "clip", lambda update, bound: update),
        ("step",),
    ),
    "server noise from a seed": (
        "server",
        _set(client, "entropy", lambda seed, *keys: Stream.seeded(1, *keys)),
        ("seeds",),
    ),
}
