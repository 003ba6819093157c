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
from fedlite.models import Single
from fedlite.plan import Plan
from fedlite.privacy import (
    ClientMechanism,
    LocalMechanism,
    RecordMechanism,
    SharedMechanism,
    accounting,
    client,
    dpsgd,
)
from fedlite.privacy.gradients import ModelGradients, Rows
from fedlite.privacy.noise import Stream
from fedlite.privacy.trial import block_of
from fedlite.scenario import Scenario, ScenarioError
from fedlite.training import Learner

_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """A scenario made ready to be attacked at its first site.

    mechanism: what a site is told to use.
    """

    plan: Plan
    learner: Learner
    mechanism: LocalMechanism

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
        """Number of trained values."""
        return self.learner.layout.size

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
        if isinstance(self.mechanism, ClientMechanism):
            return client.entropy(-1, *keys), client.entropy(-1, *keys)
        return dpsgd.entropy(-1, *keys)

    @cached_property
    def block(self) -> int:
        """How many records share a pass in the site's steps."""
        learner, batch = self.learner, getattr(self.mechanism, "expected_batch", 1)
        return block_of(learner.model, learner.inputs, learner.labels, learner.loss, batch)

    def gradients(self) -> ModelGradients:
        """Return the gradients that the site's steps use, to be opened as a context."""
        one = self.learner
        return ModelGradients(one.model, one.inputs, one.labels, one.loss, self.block)

    def batch(self, sampler: Stream) -> Rows:
        """Return one batch of the site's records, as its mechanism samples it."""
        cap = getattr(self.mechanism, "max_batch", 0)
        return dpsgd.poisson_sample(self.records, self.mechanism.sampling_rate, sampler, cap)

    def reference(self, rows: Rows, mechanism: RecordMechanism) -> Values:
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
        """Return these records' gradients in chunks, each float64 [b, size]."""
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
            chunks.append(torch.cat(flat, dim=1).cpu().numpy())
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
    if isinstance(plan.mechanism, SharedMechanism):
        raise ScenarioError(
            "privacy.noise_at: must be site or server to be attacked, got 'shared' (what is "
            "missing: attacks on a sum under masks); attack the same plan with noise_at site, or "
            "see the table of `privacy.shared` in the run's summary"
        )
    mechanism, plan = plan.mechanism, depth.plan_of(plan, sites[0].name)
    if plan.turns:
        raise ScenarioError(
            "model.options.method: must move all values in every round to be attacked, got one "
            f"that moves them in {len(plan.turns)} turns; take frozen-a, whose every step is that "
            "of the turns in which A stands still"
        )
    learner = Learner(plan, sites[0].train)
    if learner.layout.size < canaries:
        raise ScenarioError(
            f"--canaries: must be at most the model's {learner.layout.size} trained values, one a "
            f"canary, got {canaries}"
        )
    return Subject(plan, learner, mechanism)
