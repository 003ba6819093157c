"""One site's share of a round: from the model it received to the delta it may send."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedlite.compression.running import RUNNING
from fedlite.data import Dataset
from fedlite.objectives import OWN, State
from fedlite.parameters import Kept, Vector, running_to_vector, to_vector
from fedlite.plan import Plan
from fedlite.privacy import ClientMechanism, Mechanism, RecordMechanism, SharedMechanism, client
from fedlite.privacy.noise import Integers
from fedlite.tasks import Outputs
from fedlite.training import local
from fedlite.training.bench import Bench
from fedlite.training.objective import Objective, class_offsets


def settle_process(threads: int = 1) -> None:
    """Give this process one torch thread: two on two busy cores spin for each other.

    They were measured to be ten times slower than one. More is for a site whose cores are idle.
    """
    torch.set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """Return the device for `training.device`: `auto` takes a GPU when there is one.

    Raises ValueError when `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "training.device: must be auto or cpu on a machine without a usable GPU, got 'cuda'"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, eq=False)
class Share:
    """What a round of training came to.

    delta: trained minus received, float32 [n], and behind it what the extras are to change by.
    kept: what the objective keeps for the next round, by name.
    """

    delta: Vector
    kept: Kept


@dataclass(frozen=True, eq=False)
class Asked:
    """What a site asks of training in a round; the arguments of `Learner.share`, and who learns."""

    learner: Learner
    received: Vector
    round: int
    site: int
    mechanism: Mechanism | None
    kept: Kept

    def alone(self) -> Share:
        """Train at this site by itself."""
        return self.learner.share(self.received, self.round, self.site, self.mechanism, self.kept)


class Learner:
    """A model with one site's training records, ready for any round.

    The model's fixed transform is applied once, here, and its result kept. bench: the model, where
    several sites of one process train on the same; without one the learner makes its own.
    """

    def __init__(self, plan: Plan, train: Dataset, bench: Bench | None = None) -> None:
        """Prepare the records on the device, and the plan's model unless it is given."""
        self.plan = plan
        self.scenario = scenario = plan.scenario
        self.bench = bench or Bench(plan, device_of(scenario.training.device))
        self.device, self.model = self.bench.device, self.bench.model
        self.initial, self.layout = plan.initial, plan.layout
        raw, self.labels = plan.task.tensors(train, self.device)
        with torch.no_grad():
            self.inputs = self.model.prepare(raw)
        settings = scenario.training
        offsets = class_offsets(self.labels, plan.classes) if settings.logit_adjustment else None
        self.objective = Objective.of(plan.task, settings, offsets)
        if plan.term is not None:
            terms = (*self.objective.terms, plan.term)
            self.objective = replace(self.objective, terms=terms)

    def delta(
        self,
        received: Vector,
        round_number: int,
        site: int,
        mechanism: Mechanism | None,
    ) -> Vector:
        """Return the delta of `share` in a site's first round."""
        return self.share(received, round_number, site, mechanism).delta

    def share(
        self,
        received: Vector,
        round_number: int,
        site: int,
        mechanism: Mechanism | None,
        kept: Kept | None = None,
    ) -> Share:
        """Train from `received`, as it travels, and return what that came to.

        kept: what the last share that counted has kept. With a mechanism whose noise the site adds,
        the delta is a noised release that anybody may see; otherwise it depends on the records in
        the clear, as does what is kept.
        """
        if isinstance(mechanism, SharedMechanism):
            raise ValueError("mechanism: must be one whose release is seen by itself; see `units`")
        return self._share(received, round_number, site, mechanism, kept)

    def _share(
        self,
        received: Vector,
        round_number: int,
        site: int,
        mechanism: Mechanism | None,
        kept: Kept | None = None,
    ) -> Share:
        model, extras = self.plan.split(received)
        self.bench.reset()
        self.plan.load(self.model, received)
        before = self.before(kept or {}, extras)
        after: tuple[State, ...] = ()
        rate, turn = self.plan.learning_rate(round_number), self.plan.turn(round_number)
        moving = slice(None) if turn is None else turn.moving
        with nullcontext() if turn is None else turn.alone(self.model):
            if isinstance(mechanism, RecordMechanism):
                begun = torch.tensor(model[moving], device=self.device)
                self._train_noised(mechanism, begun, before, rate, round_number, site)
            else:
                after = self._train_clear(before, rate, round_number, site)
        change: Vector = to_vector(self.model) - model
        # Under privacy nothing that is refused may hang on the records. In another turn than the
        # first what moves may have no gradient yet: A of an adapter, as long as B is zero.
        surely = turn is None or turn is self.plan.turns[0]
        trained = surely and mechanism is None and len(self.labels) > 0
        self.bench.frozen.check(change, trained=trained)
        if isinstance(mechanism, ClientMechanism) and mechanism.at == "site":
            change[moving] = self.noised(change[moving], mechanism, round_number, site)
        ends: Kept = self.kept_of(after)
        if RUNNING in extras:
            ends[RUNNING] = running_to_vector(self.model) - extras[RUNNING]
        return shared(change, extras, ends)

    def noised(
        self, change: Vector, mechanism: ClientMechanism, round_number: int, site: int
    ) -> Vector:
        """Return the release of a whole change, float32, under client-level privacy at the site."""
        noise = client.entropy(self.scenario.privacy.simulate_seed, round_number, site)
        return client.privatize(change, mechanism, noise)

    def units(
        self, received: Vector, round_number: int, site: int, mechanism: SharedMechanism
    ) -> Integers:
        """Return this site's part of the round's sum, int64 [k]: whole units, its noise in them.

        Of the gradients at `received`, or of the whole update from there, on the round's common
        support. Nobody may see it but under masks: alone it protects far less than the sum does.
        """
        if mechanism.unit == "client":
            return self._whole(received, round_number, site, mechanism)
        from fedlite.privacy import dpsgd
        from fedlite.privacy.gradients import check_model
        from fedlite.privacy.shared.restricted import RestrictedGradients
        from fedlite.privacy.shared.summed import contribution
        from fedlite.privacy.trial import block_of

        self.plan.load(self.model, received)
        self.objective.check_private()
        check_model(self.model)
        seed = self.scenario.privacy.simulate_seed
        sampler, noise = dpsgd.entropy(seed, round_number, site)
        rows = dpsgd.poisson_sample(len(self.labels), mechanism.sampling_rate, sampler)
        loss, batch = self.objective.loss, mechanism.expected_batch
        where = self.plan.support(round_number)
        with self.bench.kernels():
            block = block_of(self.model, self.inputs, self.labels, loss, batch)
            with RestrictedGradients(
                self.model, self.inputs, self.labels, loss, block, where.indices, where.factors
            ) as gradients:
                return contribution(gradients, rows, mechanism, noise)

    def _whole(
        self, received: Vector, round_number: int, site: int, mechanism: SharedMechanism
    ) -> Integers:
        from fedlite.privacy.shared.summed import whole_contribution

        where = self.plan.support(round_number)
        change = self._share(received, round_number, site, mechanism).delta[where.indices]
        noise = client.entropy(self.scenario.privacy.simulate_seed, round_number, site)
        return whole_contribution(change * where.factors, mechanism, noise)

    def _train_clear(
        self, before: tuple[State, ...], rate: float, round_number: int, site: int
    ) -> tuple[State, ...]:
        """Train the values that require a gradient, and return what the terms keep."""
        if self.scenario.privacy.unit == "record":
            raise ValueError("mechanism: needed because privacy.unit is record, got none")
        with self.bench.kernels():
            return local.train(
                self.model,
                self.bench.flat or local.flatten(self.model),
                self.inputs,
                self.labels,
                self.objective,
                self.scenario.training,
                learning_rate=rate,
                rng=self.shuffler(round_number, site),
                kept=before,
            )

    def shuffler(self, round_number: int, site: int) -> np.random.Generator:
        """Return what shuffles the site's records in a round."""
        return np.random.default_rng([self.scenario.federation.seed, round_number, site])

    def _train_noised(
        self,
        mechanism: RecordMechanism,
        begun: Tensor,
        before: tuple[State, ...],
        rate: float,
        round_number: int,
        site: int,
    ) -> None:
        """Train the values that require a gradient, `begun` before, by noised steps."""
        from fedlite.privacy import dpsgd

        objective = self.objective
        objective.check_private()
        states = objective.begin(begun, before)
        sampler, noise = dpsgd.entropy(self.scenario.privacy.simulate_seed, round_number, site)
        with self.bench.kernels():
            dpsgd.train(
                self.model,
                self.inputs,
                self.labels,
                objective.loss,
                mechanism,
                steps=self.scenario.training.steps,
                learning_rate=rate,
                sampler=sampler,
                noise=noise,
                after=partial(objective.add_terms, states=states) if states else None,
            )

    def kept_of(self, after: tuple[State, ...]) -> Kept:
        """Return what the objective's term keeps, of the states that all terms ended with."""
        return _as_arrays(after[-1]) if after and self.plan.term else {}

    def before(self, kept: Kept, extras: Mapping[str, Vector]) -> tuple[State, ...]:
        """Return what the terms begin with: nothing but for the objective's, which is the last."""
        if self.plan.term is None:
            return ()
        shared = {name: extras[name] for name in self.plan.term.extras}
        own = {OWN + name: np.zeros_like(value) for name, value in shared.items()}
        found = {**own, **kept, **shared}
        state = {k: torch.tensor(v, device=self.device) for k, v in found.items()}
        return (*({} for _ in self.objective.terms[1:]), state)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Return the scenario's loss of each record, float32 [n]."""
        return self.objective.loss(outputs, labels)


def shared(change: Vector, extras: Mapping[str, Vector], ends: Kept) -> Share:
    """Return a share: a model's change, float32 [n], and behind it those of the extras.

    ends: what the objective keeps, by name, and by how much extras are to change.
    """
    changes = [ends.pop(name, 0 * value) for name, value in extras.items()]
    return Share(np.concatenate([change, *changes]) if changes else change, ends)


def _as_arrays(state: State) -> Kept:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}
