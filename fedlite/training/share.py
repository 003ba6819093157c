"""One site's share of a round: from the model it received to the delta it may send."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedlite.data import Dataset
from fedlite.models import Branched, build, losses
from fedlite.parameters import Layout, Vector, load_vector, to_vector
from fedlite.privacy import ClientMechanism, Mechanism, RecordMechanism, accounting, client
from fedlite.scenario import Scenario, with_values
from fedlite.training import local


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


def learning_rate(scenario: Scenario, round_number: int) -> float:
    """Return the local learning rate of a round (from 1), by `training.schedule`.

    >>> from fedlite.scenario import from_dict
    >>> scenario = from_dict({"federation": {"rounds": 11}, "training": {
    ...     "learning_rate": 1.0, "schedule": "linear", "hold": 0.5, "final": 0.1}})
    >>> [round(learning_rate(scenario, r), 2) for r in (1, 6, 11)]
    [1.0, 1.0, 0.1]
    """
    training = scenario.training
    if training.schedule == "constant":
        return training.learning_rate
    progress = (round_number - 1) / max(1, scenario.federation.rounds - 1)
    fallen = max(0.0, progress - training.hold) / max(1e-9, 1.0 - training.hold)
    return training.learning_rate * (1.0 - (1.0 - training.final) * min(1.0, fallen))


def class_offsets(labels: Tensor, classes: int) -> Tensor:
    """Return the log of each class's smoothed share of `labels`, float32 [classes].

    Added to the logits in the local loss (Menon et al. 2021, equation 10; for federated label skew
    Zhang et al. 2022, "FedLC"), it leaves the model free of the site's own class frequencies.
    """
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.log((counts + 1.0) / (counts.sum() + classes))


def settle_batch(scenario: Scenario, records: int) -> Scenario:
    """Return the scenario with `privacy.expected_batch` settled for a source of `records` records.

    The size of a named source is public, and so is the number of sites: their quotient tells
    nothing of how many records one site holds. A value that was set is left as it is.
    """
    if scenario.privacy.unit != "record" or scenario.privacy.expected_batch:
        return scenario
    kept = records * (1.0 - scenario.data.test_fraction)
    batch = round(scenario.privacy.sampling_rate * kept / scenario.federation.sites)
    return with_values(scenario, "privacy", expected_batch=max(1, batch))


def plan_mechanism(scenario: Scenario) -> Mechanism:
    """Return the mechanism that spends `privacy.epsilon` over all planned rounds, by PLD.

    A site and its server compute it from the same public settings and get the same numbers. The
    plan assumes that a site takes part in every round; taking part in fewer costs less.

    Raises ValueError when `privacy.expected_batch` has not been settled.
    """
    privacy = scenario.privacy
    if privacy.unit == "record":
        return record_mechanism(scenario)
    return ClientMechanism(
        clip=privacy.clip,
        noise_multiplier=accounting.calibrate(
            privacy.epsilon, privacy.delta, 1.0, scenario.federation.rounds
        ),
        steps=scenario.federation.rounds,
        at="server" if privacy.noise_at == "server" else "site",
    )


def record_mechanism(scenario: Scenario) -> RecordMechanism:
    """Return the planned mechanism of a scenario whose privacy unit is one record."""
    privacy = scenario.privacy
    steps = scenario.federation.rounds * scenario.training.steps
    if privacy.expected_batch < 1:
        raise ValueError(
            "privacy.expected_batch: must be at least 1 before training starts, got "
            f"{privacy.expected_batch}; set it to about sampling_rate x records per site, the same "
            "public number for every site"
        )
    sigma = accounting.calibrate(
        privacy.epsilon,
        privacy.delta,
        privacy.sampling_rate,
        steps,
        max_batch=privacy.max_batch,
        max_records=privacy.max_records,
    )
    return RecordMechanism(
        clip=privacy.clip,
        noise_multiplier=sigma,
        sampling_rate=privacy.sampling_rate,
        steps=steps,
        expected_batch=privacy.expected_batch,
        max_batch=privacy.max_batch,
        max_records=privacy.max_records,
    )


def steps_per_round(scenario: Scenario) -> int:
    """Return how many releases of the mechanism one round takes: DP-SGD steps, or one update."""
    return scenario.training.steps if scenario.privacy.unit == "record" else 1


class Learner:
    """A model with one site's training records, ready for any round.

    The model's fixed transform is applied once, here, and its result kept.
    """

    def __init__(self, scenario: Scenario, train: Dataset, classes: int) -> None:
        """Build the model from the scenario's seed and prepare the records on the device."""
        self.scenario = scenario
        self.device = device_of(scenario.training.device)
        shape = tuple(train.x.shape[1:])
        self.model: Branched = build(
            scenario.model.name, shape, classes, seed=scenario.federation.seed
        )
        self.initial: Vector = to_vector(self.model)
        self.layout = Layout.of(self.model)
        self.model.to(self.device)
        with torch.no_grad():
            self.inputs = self.model.prepare(torch.from_numpy(train.x).to(self.device))
        self.labels = torch.from_numpy(train.y).to(self.device)
        self._offsets = (
            class_offsets(self.labels, classes) if scenario.training.logit_adjustment else None
        )
        self._flat = None if scenario.privacy.unit == "record" else local.flatten(self.model)

    def delta(
        self,
        received: Vector,
        round_number: int,
        site: int,
        mechanism: Mechanism | None,
    ) -> Vector:
        """Train from `received` and return trained minus received, float32 [n].

        With a mechanism whose noise the site adds, the result is a noised release that anybody may
        see; otherwise it depends on the records in the clear.
        """
        load_vector(self.model, received)
        settings = self.scenario.training
        loss = self.loss
        rate = learning_rate(self.scenario, round_number)
        if not isinstance(mechanism, RecordMechanism):
            if self._flat is None:
                raise ValueError("mechanism: needed because privacy.unit is record, got none")
            local.train(
                self.model,
                self._flat,
                self.inputs,
                self.labels,
                loss,
                settings,
                learning_rate=rate,
                rng=np.random.default_rng([self.scenario.federation.seed, round_number, site]),
            )
        else:
            from fedlite.privacy import dpsgd

            seed = self.scenario.privacy.simulate_seed
            sampler, noise = dpsgd.entropy(seed, round_number, site)
            dpsgd.train(
                self.model,
                self.inputs,
                self.labels,
                loss,
                mechanism,
                steps=settings.steps,
                learning_rate=rate,
                sampler=sampler,
                noise=noise,
            )
        change: Vector = to_vector(self.model) - received
        if isinstance(mechanism, ClientMechanism) and mechanism.at == "site":
            seed = self.scenario.privacy.simulate_seed
            return client.privatize(change, mechanism, client.entropy(seed, round_number, site))
        return change

    def loss(self, shallow: Tensor, deep: Tensor, labels: Tensor) -> Tensor:
        """Return the scenario's loss of each record, float32 [n], in nats."""
        settings = self.scenario.training
        return losses(
            shallow,
            deep,
            labels,
            exit_weight=settings.exit_weight,
            distill=settings.distill,
            temperature=settings.temperature,
            offsets=self._offsets,
        )
