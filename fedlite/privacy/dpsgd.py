"""Record-level DP-SGD (Abadi et al. 2016): sample, clip, sum, noise, step.

The one place where a private release is made is `noised_sum`, and for several sites of a simulation
at once `noised_sums`; whatever gradients they are given, they see them through their norms and one
weighted sum. All bits come from `fedlite.privacy.noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.privacy.gradients import Loss, ModelGradients, Rows, check_model
from fedlite.privacy.mechanism import RecordMechanism
from fedlite.privacy.noise import Stream, release, releases
from fedlite.privacy.trial import block_of


def entropy(simulate_seed: int, *keys: int) -> tuple[Stream, Stream]:
    """Return the streams for sampling and for noise, keyed by the operating system.

    Nobody (least of all a server that knows the scenario's seed) can repeat and subtract the noise.
    Only `simulate_seed` >= 0 makes them repeatable from the seed and `keys`; a run that does so may
    not claim privacy.
    """
    if simulate_seed >= 0:
        return (
            Stream.seeded("sampling", simulate_seed, *keys),
            Stream.seeded("noise", simulate_seed, *keys),
        )
    return Stream.fresh(), Stream.fresh()


class Gradients(Protocol):
    """Per-record gradients of a step, seen through their norms and one weighted sum."""

    @property
    def size(self) -> int:
        """Number of coordinates d of a gradient."""

    def norms(self, rows: Rows) -> NDArray[np.float64]:
        """Return the L2 norm of each record's gradient over all trained tensors, float64 [b].

        rows: the records of the step, int64 [b]. Not finite where a gradient is not.
        """

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `sum_j factors[j] * gradient_j` of the same records, float64 [d].

        A record with the factor 0 adds exactly nothing, whatever its gradient is.
        """


def noised_sum(
    gradients: Gradients, rows: Rows, mechanism: RecordMechanism, noise: Stream
) -> NDArray[np.float64]:
    """Return the noised sum of the clipped gradients of `rows`, float64 [d]: the private release.

    The privacy unit is one record. A record whose gradient is not finite (a hostile model can
    choose which) counts as zero: were the step to fail for it, or to take longer, that would tell
    that it is there. No record at all is a step too: noise alone.
    """
    total = clipped_sum(gradients, rows, mechanism.clip_bound(gradients.size))
    return release(total, mechanism.noise_std, noise)


def clipped_sum(gradients: Gradients, rows: Rows, bound: float) -> NDArray[np.float64]:
    """Return the sum of the gradients of `rows`, each cut to the norm `bound`, float64 [d].

    As clean as the records are: it must be noised before anybody sees it.
    """
    return gradients.weighted(factors(gradients.norms(rows), bound))


def factors(norms: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """Return what cuts gradients of these norms to the norm `bound`, as many; 0 for no norm."""
    return np.where(np.isfinite(norms), bound / np.maximum(norms, bound), 0.0)


class ManyGradients(Protocol):
    """`Gradients` of several sites at once, whose models and records are their own."""

    @property
    def size(self) -> int:
        """Number of coordinates d of a gradient."""

    def norms(self, rows: Sequence[Rows]) -> NDArray[np.float64]:
        """Return for each site what `Gradients.norms` returns for its rows, float64 [g, b].

        b is at least the most rows that a site has; beyond its own they are NaN.
        """

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sites' weighted sums, float64 [g, d]; factors: float64 [g, b]."""


def noised_sums(
    gradients: ManyGradients,
    rows: Sequence[Rows],
    mechanism: RecordMechanism,
    noises: Sequence[Stream],
) -> NDArray[np.float64]:
    """Return what `noised_sum` releases for each of several sites, float64 [g, d].

    Each site's records are clipped and noised by themselves, with bits of its own stream.
    """
    bound = mechanism.clip_bound(gradients.size)
    totals = gradients.weighted(factors(gradients.norms(rows), bound))
    return releases(totals, mechanism.noise_std, noises)


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
    mechanism: RecordMechanism,
    *,
    steps: int,
    learning_rate: float,
    sampler: Stream,
    noise: Stream,
    after: Callable[[Tensor, Tensor], None] | None = None,
) -> None:
    """Run `steps` noised steps of plain SGD on `model`, in place.

    inputs: [n, ...] float32; labels: [n, ...], what it should answer; loss(outputs, labels) -> [n].
    The privacy unit is one row of `inputs`. An empty Poisson sample is still a step: it adds noise
    and is counted. A sample larger than `mechanism.max_batch` is cut to it at random. Plain SGD
    only: a momentum buffer would have to be accounted with the state that a site keeps between
    rounds.

    after(direction, values): adds to a step's direction, float32 [d] and as yet zero, what depends
    on the model's values, float32 [d], and on public values alone. The values come of noised steps,
    so this costs no privacy; anything else that it might know of the records would.

    Raises ValueError when the model mixes records, and when there are more rows than the records
    that the cost of the cap was computed for.
    """
    check_model(model)
    check_records(len(labels), mechanism)
    rate = learning_rate / mechanism.expected_batch
    block = block_of(model, inputs, labels, loss, mechanism.expected_batch)
    with ModelGradients(model, inputs, labels, loss, block) as gradients:
        sizes = [p.numel() for p in gradients.parameters]
        for _ in range(steps):
            rows = poisson_sample(
                len(labels), mechanism.sampling_rate, sampler, mechanism.max_batch
            )
            moved = torch.from_numpy(noised_sum(gradients, rows, mechanism, noise))
            pieces = torch.split(moved.to(labels.device), sizes)
            with torch.no_grad():
                added = _added(gradients.parameters, after) if after else None
                for parameter, piece in zip(gradients.parameters, pieces, strict=True):
                    parameter.sub_(piece.view_as(parameter), alpha=rate)
                if added is not None:
                    for parameter, piece in zip(
                        gradients.parameters, torch.split(added, sizes), strict=True
                    ):
                        parameter.sub_(piece.view_as(parameter), alpha=learning_rate)


def check_records(count: int, mechanism: RecordMechanism) -> None:
    """Raise ValueError when a site has more than the cost of the cap was computed for."""
    if mechanism.max_batch and count > mechanism.max_records:
        raise ValueError(
            "max_records: must be at least the records of this site, because the cost of max_batch "
            f"is computed from it, got {mechanism.max_records} for {count} records"
        )


def _added(parameters: list[nn.Parameter], after: Callable[[Tensor, Tensor], None]) -> Tensor:
    values = torch.cat([p.reshape(-1) for p in parameters])
    direction = torch.zeros_like(values)
    after(direction, values)
    return direction


def poisson_sample(n: int, rate: float, sampler: Stream, cap: int = 0) -> Rows:
    """Return the ascending indices of a Poisson sample: each of `n` rows independently with `rate`.

    A sample of more than `cap` rows is cut to a random subset of `cap`; 0 never cuts. What cutting
    costs is `fedlite.privacy.mechanism.cut_slack`. Any other sampler (a shuffled loader, batches of
    a fixed size) may not be accounted with `rate`. The rate drawn is `rate` rounded down to a
    multiple of 2^-64.
    """
    if rate == 1.0:
        chosen = np.arange(n)
    else:
        chosen = np.flatnonzero(sampler.words(n) < np.uint64(int(rate * 2.0**64)))
    if 0 < cap < len(chosen):
        order = np.argsort(sampler.words(len(chosen)), kind="stable")
        chosen = np.sort(chosen[order[:cap]])
    return chosen
