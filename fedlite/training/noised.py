"""Private training at several sites at once: the same steps as `dpsgd.train`, and the same bits.

Each site has its own values, records, sampling, noise and terms of the objective. Its records are
clipped by themselves and its sum is noised from its own stream: what it releases, and what that
costs, is what it is for the site alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.aligned import missing
from fedlite.privacy.gradients import (
    Rows as Chosen,
    alike,
    is_plain,
    of_layer,
    of_linear,
)
from fedlite.privacy.parts import Outer, Part, Whole
from fedlite.training.blocks import Block, Blocks
from fedlite.training.many import End, Work, begun
from fedlite.training.stacked import Rows, Stacked, products


def noised(
    model: nn.Module,
    works: Sequence[Work],
    mechanism: RecordMechanism,
    steps: int,
    block: int,
    blocks: Blocks,
) -> list[End]:
    """Return what `dpsgd.train` makes of each site's values; nothing is kept.

    Every site samples, clips and noises by itself, as if it were alone; each takes part in every
    step, be its sample empty. block: as of `fedlite.privacy.trial.block_of`. blocks: where records
    are taken from, and kept if every step takes all of them.
    """
    for work in works:
        work.objective.check_private()
        dpsgd.check_records(len(work.labels), mechanism)
    values, size = begun(works)
    lines = [values[at, :size] for at in range(len(works))]
    states = [w.objective.begin(line, w.before) for w, line in zip(works, lines, strict=True)]
    streams = [work.own_streams for work in works]
    rate = works[0].rate / mechanism.expected_batch
    keep = mechanism.sampling_rate == 1.0
    with StackedGradients(model, works, values, block, blocks, keep=keep) as gradients:
        for _ in range(steps):
            rows = [
                dpsgd.poisson_sample(
                    len(work.labels), mechanism.sampling_rate, sampler, mechanism.max_batch
                )
                for work, (sampler, _) in zip(works, streams, strict=True)
            ]
            moved = torch.from_numpy(
                dpsgd.noised_sums(gradients, rows, mechanism, [noise for _, noise in streams])
            ).to(values.device)
            with torch.no_grad():
                added = [torch.zeros_like(line) for line in lines if works[0].objective.terms]
                for work, line, direction, state in zip(works, lines, added, states, strict=False):
                    work.objective.add_terms(direction, line.detach(), state)
                values[:, :size].sub_(moved, alpha=rate)
                for line, direction in zip(lines, added, strict=False):
                    line.sub_(direction, alpha=works[0].rate)
    return [(line.detach().numpy(), ()) for line in lines]


@dataclass(frozen=True)
class _Seen:
    """A layer, what came into it, the version of that, and the place of the output in the graph."""

    layer: nn.Module
    x: Tensor
    version: int
    edge: GradientEdge


class StackedGradients:
    """The per-record gradients of several sites (`fedlite.privacy.dpsgd.ManyGradients`).

    A context manager like `fedlite.privacy.gradients.ModelGradients`, whose numbers it has to the
    bit: blocks of one size, filled up, and a layer's gradients from what comes in and the gradient
    of what comes out.
    """

    def __init__(
        self,
        model: nn.Module,
        works: Sequence[Work],
        values: Tensor,
        block: int,
        blocks: Blocks,
        *,
        keep: bool = False,
    ) -> None:
        """Keep the records; nothing is computed yet. values: as `Rows` takes them."""
        self._model, self._block, self._loss = model, block, works[0].objective.loss
        self._from, self._keep = blocks, keep
        self._inputs = [_some(work.inputs) for work in works]
        self._labels = [_some(work.labels) for work in works]
        self._stacked = Stacked(model, self._see, self._linear, patched=True)
        self._stacked.rows = Rows(values, self._stacked.shapes)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._seen: list[_Seen] = []
        self._blocks: list[list[Part | None]] = []
        self.size = sum(p.numel() for p in self._parameters)

    def __enter__(self) -> StackedGradients:
        """Let the model's layers compute for all sites."""
        with ExitStack() as entered:
            entered.enter_context(alike(self._model))
            entered.enter_context(self._stacked)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Let them compute for one."""
        self._entered.close()

    def norms(self, rows: Sequence[Chosen]) -> NDArray[np.float64]:
        """Return each site's norms, float64 [g, b]; NaN beyond its own records.

        Not finite where a gradient is not.
        """
        counts = np.array([len(one) for one in rows])
        width = self._block * max(1, -(-int(counts.max()) // self._block))
        # Filled up with each site's first record, which gets no weight.
        chosen = np.zeros((len(rows), width), np.int64)
        for place, one in zip(chosen, rows, strict=True):
            place[: len(one)] = one
        self._blocks = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            taken = self._from.of(self._inputs, self._labels, chosen, self._block, keep=self._keep)
            found = [self._pass(block) for block in taken]
        norms: NDArray[np.float64] = (
            torch.cat([one.view(len(rows), -1) for one in found], 1).sqrt().numpy()
        )
        norms[np.arange(width) >= counts[:, None]] = np.nan
        return norms

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each site's weighted sum of its records' gradients, float64 [g, d].

        factors: float64 [g, b], as `norms` returned; 0 beyond a site's own records.
        """
        padded = torch.from_numpy(factors)
        total = torch.zeros(len(factors), self.size, dtype=torch.float64)
        sizes = [p.numel() for p in self._parameters]
        for weights, parts in zip(torch.split(padded, self._block, 1), self._blocks, strict=True):
            for piece, part in zip(torch.split(total, sizes, 1), parts, strict=True):
                if part is not None:
                    piece += _weighted(part, weights)
        self._blocks = []
        found: NDArray[np.float64] = total.numpy()
        return found

    def _see(self, layer: nn.Module, x: Tensor, output: Tensor) -> None:
        x = x.detach()
        self._seen.append(_Seen(layer, x, x._version, get_gradient_edge(output)))

    def _linear(self, layer: nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute a linear layer of many sites as `fedlite.privacy.gradients` does that of one."""
        wide, high = missing(layer)
        x = self._now.filled(x, wide).view(len(weight), -1, layer.in_features + wide)
        if not wide and not high:
            return products(x, weight, bias).flatten(0, 1)
        weight = functional.pad(weight, (0, wide, 0, high))
        padded = products(x, weight, None)[..., : layer.out_features]
        return (padded if bias is None else padded + bias[:, None]).flatten(0, 1)

    def _pass(self, block: Block) -> Tensor:
        self._seen, self._now = [], block
        losses = self._loss(self._model(block.inputs), block.labels)
        slopes = torch.autograd.grad(losses.sum(), [s.edge for s in self._seen], allow_unused=True)
        found: dict[int, Outer | Whole] = {}
        for seen, slope in zip(self._seen, slopes, strict=True):
            if seen.x._version != seen.version:
                raise ValueError("model: what goes into a layer is changed in place afterwards")
            if slope is None:
                continue
            layer = seen.layer
            if type(layer) is nn.Linear and (right := block.right(seen.x)) is not None:
                of_linear(layer, right.rows, slope.double(), found, right.squares)
                continue
            if is_plain(layer):
                of_layer(layer, seen.x, slope, found)
                continue
            # Loaded where it is needed: it takes seconds.
            from opacus.grad_sample import GradSampleModule

            sampler = GradSampleModule.GRAD_SAMPLERS[type(layer)]
            for parameter, samples in sampler(layer, [seen.x], slope).items():
                if id(parameter) in found:
                    raise ValueError("model: a layer that is not plain is used twice")
                found[id(parameter)] = Whole(samples.detach().double().flatten(1))
        self._seen = []
        parts = [found.get(id(p)) for p in self._parameters]
        self._blocks.append(parts)
        total = torch.zeros(len(losses), dtype=torch.float64)
        for part in parts:
            if part is not None:
                total += part.squares()
        return torch.where(torch.isfinite(losses.detach()), total, torch.nan)


def _some(records: Tensor) -> Tensor:
    """Return a site's records, or one that is nobody's where it has none."""
    return records if len(records) else records.new_zeros((1, *records.shape[1:]))


def _weighted(part: Part, weights: Tensor) -> Tensor:
    """Return the sites' weighted sums of a part of the gradients: weights [g, b]."""
    g, b = weights.shape
    if isinstance(part, Whole):
        values = torch.nan_to_num_(part.values, 0.0, 0.0, 0.0).view(g, b, -1)
        # One after the other: for few sites at once linear algebra adds up in another order.
        return torch.stack([one @ of for one, of in zip(weights, values, strict=True)])
    left = torch.nan_to_num(part.left, 0.0, 0.0, 0.0).view(g, b, -1) * weights[..., None]
    if part.right is None:
        return left.sum(1)
    right = part.right
    if part.known is None:
        right = torch.nan_to_num_(right, 0.0, 0.0, 0.0)
    right = right.view(g, b, -1)
    return torch.bmm(left.mT, right).flatten(1)
