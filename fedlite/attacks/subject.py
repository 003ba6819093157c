"""What is audited: one site's model, records and plan, and a second opinion on its clean sum."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedlite import depth, plan as plans
from fedlite.attacks.canaries import Values
from fedlite.compression.support import Support
from fedlite.models import Single
from fedlite.plan import Plan
from fedlite.privacy import (
    Mechanism,
    RecordMechanism,
    SharedMechanism,
    accounting,
    client,
    dpsgd,
)
from fedlite.privacy.gradients import ModelGradients, Rows
from fedlite.privacy.noise import Stream
from fedlite.privacy.shared.restricted import RestrictedGradients
from fedlite.privacy.trial import block_of
from fedlite.scenario import Scenario, ScenarioError
from fedlite.training import Learner

_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """A scenario made ready to be attacked at its first site.

    mechanism: what a site is told to use. Where noise is shared, all is of the support of round 1.
    """

    plan: Plan
    learner: Learner
    mechanism: Mechanism

    @property
    def scenario(self) -> Scenario:
        """The plan's, settled."""
        return self.plan.scenario

    @property
    def records(self) -> int:
        """Number of the site's training records."""
        return len(self.learner.labels)

    @property
    def size(self) -> int:
        """Number of values of a release: of those that are trained, or of the support."""
        if isinstance(self.mechanism, SharedMechanism):
            return self.mechanism.coordinates
        return self.learner.layout.size

    @property
    def sections(self) -> tuple[int, ...]:
        """How many values of a release are of each tensor."""
        if self.support is None:
            return self.learner.layout.sizes
        ends = np.searchsorted(self.support.indices, np.cumsum(self.learner.layout.sizes))
        return tuple(np.diff(ends, prepend=0).tolist())

    @cached_property
    def support(self) -> Support | None:
        """Which coordinates a sum is of; None where no noise is shared."""
        return self.plan.support(1) if isinstance(self.mechanism, SharedMechanism) else None

    @property
    def delta(self) -> float:
        """The delta of the claim."""
        return self.scenario.privacy.delta

    @property
    def steps(self) -> int:
        """Releases of the mechanism that the plan commits to."""
        return self.mechanism.steps

    @cached_property
    def proven(self) -> float:
        """The epsilon of the whole plan, by pessimistic PLD."""
        return accounting.running(self.mechanism, self.steps, self.delta)

    def streams(self, *keys: int) -> tuple[Stream, Stream]:
        """Return a sampler and a noise stream as a site, or a server, gets them."""
        if self.mechanism.unit == "client":
            return client.entropy(-1, *keys), client.entropy(-1, *keys)
        return dpsgd.entropy(-1, *keys)

    @cached_property
    def block(self) -> int:
        """How many records share a pass in the site's steps."""
        learner, batch = self.learner, getattr(self.mechanism, "expected_batch", 1)
        return block_of(learner.model, learner.inputs, learner.labels, learner.loss, batch)

    def gradients(self) -> ModelGradients:
        """Return the gradients that the site's steps use, to be opened as a context."""
        one, where = self.learner, self.support
        given = one.model, one.inputs, one.labels, one.loss, self.block
        if where is not None:
            return RestrictedGradients(*given, where.indices, where.factors)
        return ModelGradients(*given)

    def batch(self, sampler: Stream) -> Rows:
        """Return one batch of the site's records, as its mechanism samples it."""
        cap = getattr(self.mechanism, "max_batch", 0)
        return dpsgd.poisson_sample(self.records, self.mechanism.sampling_rate, sampler, cap)

    def reference(self, rows: Rows, mechanism: RecordMechanism | SharedMechanism) -> Values:
        """Return the sum of these records' clipped gradients, float64 [size], by another way.

        One record at a time by automatic vectorisation in float64: it shares nothing with the
        mechanism but the model and the loss. A gradient that is not finite counts as zero.
        """
        total, bound = np.zeros(self.size), mechanism.clip_bound(self.size)
        for gradients in self.per_record(rows):
            norms = np.linalg.norm(gradients, axis=1)
            usable = np.isfinite(norms)
            total += np.minimum(1.0, bound / np.maximum(norms[usable], 1e-300)) @ gradients[usable]
        return total

    def per_record(self, rows: Rows) -> list[Values]:
        """Return these records' gradients in chunks, each float64 [b, size], before the clip."""
        learner = self.learner
        model = copy.deepcopy(learner.model).double()
        network = model.network if isinstance(model, Single) else model
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        values = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            found = functional_call(network, parameters, (x[None],))
            outputs = found if isinstance(found, tuple) else (found,)
            return learner.loss(outputs, y[None]).sum()

        every = vmap(grad(loss), in_dims=(None, 0, 0))
        chunks = []
        for start in range(0, len(rows), _CHUNK):
            chosen = torch.from_numpy(rows[start : start + _CHUNK])
            x, y = learner.inputs[chosen].double(), learner.labels[chosen]
            found = every(values, x, y)
            flat = [found[name].reshape(len(chosen), -1) for name in names]
            chunk = torch.cat(flat, dim=1).cpu().numpy()
            where = self.support
            chunks.append(chunk if where is None else chunk[:, where.indices] * where.factors)
        return chunks


def prepare(scenario: Scenario, canaries: int) -> Subject:
    """Return the subject of a settled scenario.

    Raises ScenarioError, before anything runs, for a scenario without privacy and for a model with
    fewer trained values than `canaries`.
    """
    plan, _, sites = plans.simulated(scenario)
    if plan.mechanism is None:
        raise ScenarioError(
            "privacy.unit: must be record or client to be audited, got none; nothing is claimed "
            "that an attack could contradict"
        )
    mechanism, plan = plan.mechanism, depth.plan_of(plan, sites[0].name)
    if plan.turns:
        raise ScenarioError(
            "model.options.method: must move all values in every round to be attacked, got one "
            f"that moves them in {len(plan.turns)} turns; take frozen-a, whose every step is that "
            "of the turns in which A stands still"
        )
    subject = Subject(plan, Learner(plan, sites[0].train), mechanism)
    if subject.size < canaries:
        what = "model's {} trained values" if subject.support is None else "{} values of a sum"
        raise ScenarioError(
            f"--canaries: must be at most the {what.format(subject.size)}, one a canary, got "
            f"{canaries}"
        )
    return subject
