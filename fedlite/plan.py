"""The plan: what both ends of a federation compute from public settings, before anybody trains.

A server and its sites never send each other a model's layout, a first vector, a noise multiplier or
a codec. Each computes them here, from the same scenario, and a frame made by one plan is refused by
another. So it is made once a process, and everything else takes it: the round loop, a site, the
page that its operator approves, the evaluation, the baselines and the attacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from fedlite import compression
from fedlite.compression import Compressor
from fedlite.data import SiteData, Source
from fedlite.data.spread import spread
from fedlite.models import Model, build, checks
from fedlite.parameters import Layout, Vector, to_vector
from fedlite.privacy import ClientMechanism, Mechanism
from fedlite.privacy.longest import longest
from fedlite.protection import plan_mechanism, round_steps, settle_batch, unit_of
from fedlite.registry import file_of
from fedlite.scenario import Link, Scenario
from fedlite.scenario.links import for_size
from fedlite.storage import stamp
from fedlite.tasks import Task, loss_of, make as make_task


@dataclass(frozen=True, eq=False)
class Plan:
    """A scenario with all that follows from it, for records of one shape.

    scenario: settled; nothing in it is left open. shape: of one record. classes: the width of an
    answer, at least 1: how many classes, labels or targets there are.
    layout: of the model's trainable tensors, n values in all. initial: float32 [n], the model of
    round 1, read-only. mechanism: what protects an update, with a noise that spends
    `privacy.epsilon` over all planned rounds; None where the privacy unit is none.
    """

    scenario: Scenario
    shape: tuple[int, ...]
    classes: int
    layout: Layout
    initial: Vector
    mechanism: Mechanism | None = None

    @cached_property
    def task(self) -> Task:
        """What the model learns to answer."""
        return make_task(self.scenario.task.name)

    def model(self) -> Model:
        """Return a new model with the first weights."""
        return _model(self.scenario, self.shape, self.classes)

    def check_model(self) -> None:
        """Raise ValueError, naming the tensor or the layer, where the model cannot be trained."""
        privacy, loss = self.scenario.privacy, loss_of(self.task, self.scenario.training)
        batch = privacy.expected_batch if privacy.unit == "record" else 0
        checks.check(self.model(), self.task, batch=batch, loss=loss)

    @cached_property
    def uplink(self) -> Compressor:
        """What compresses an update."""
        return compressor(self.scenario.uplink, self.layout.sizes)

    @cached_property
    def downlink(self) -> Compressor:
        """What compresses a broadcast."""
        return compressor(self.scenario.downlink, self.layout.sizes)

    @property
    def unit(self) -> str:
        """What protects an update, as ledgers name it; "none" where nothing is claimed."""
        return unit_of(self.scenario, self.mechanism)

    @property
    def central(self) -> ClientMechanism | None:
        """The mechanism when it is the server that adds its noise."""
        mechanism = self.mechanism
        if isinstance(mechanism, ClientMechanism) and mechanism.at == "server":
            return mechanism
        return None

    @cached_property
    def update_norm(self) -> float:
        """The L2 norm to which the server cuts every update; 0: none that is known beforehand.

        The noise that a server adds and the bound that it is made for come from one object. With
        noise at the sites it is what no honest update exceeds, unless the scenario says less.
        """
        if self.central is not None:
            return self.central.clip_bound(self.layout.size)
        return self.scenario.federation.update_norm or self.longest_update

    @cached_property
    def longest_update(self) -> float:
        """The L2 norm that no honest update exceeds as it arrives; 0 where no noise bounds it."""
        scenario, link = self.scenario, self.scenario.uplink
        # A reference that is added again may be of any length.
        if self.mechanism is None or self.central is not None or link.aggregate_feedback:
            return 0.0
        factor = compression.gain(self.uplink, feedback=link.error_feedback)
        if math.isinf(factor):
            return 0.0
        return factor * longest(
            self.mechanism,
            self.layout.size,
            steps=self.round_steps,
            learning_rate=scenario.training.learning_rate,
            updates=scenario.federation.rounds * scenario.federation.sites,
        )

    @cached_property
    def up_limit(self) -> int:
        """The most bytes that the body of an update's frame has."""
        padding = compression.PAD_BYTES if self.scenario.noised_at_server else 0
        return self.uplink.limit(self.layout.size) + padding

    @cached_property
    def down_limit(self) -> int:
        """The most bytes that the body of a broadcast's frame has, unless it is a whole model."""
        return self.downlink.limit(self.layout.size)

    @property
    def round_steps(self) -> int:
        """Releases of the mechanism in one round: DP-SGD steps, or one update."""
        return round_steps(self.scenario)

    def learning_rate(self, round_number: int) -> float:
        """Return the local learning rate of a round (from 1), by `training.schedule`."""
        training = self.scenario.training
        if training.schedule == "constant":
            return training.learning_rate
        progress = (round_number - 1) / max(1, self.scenario.federation.rounds - 1)
        fallen = max(0.0, progress - training.hold) / max(1e-9, 1.0 - training.hold)
        return training.learning_rate * (1.0 - (1.0 - training.final) * min(1.0, fallen))


def of(scenario: Scenario, shape: tuple[int, ...], classes: int) -> Plan:
    """Return the plan of a scenario for records of this shape; the last few are kept.

    Raises ValueError when the model does not fit the shape, a compressor refuses its settings, or
    no noise keeps `privacy.epsilon`, and when `privacy.expected_batch` has not been settled.

    >>> from fedlite.scenario import from_dict
    >>> plan = of(from_dict({"model": {"name": "mlp"}}), (1, 8, 8), 10)
    >>> plan.layout.size, plan.uplink.name, plan.unit
    (3796, 'dense', 'none')
    """
    # Scenarios are equal that differ in what they left open, and by name a file is what it was.
    file = file_of(scenario.model.name)
    other = scenario.notes, scenario.open_links, stamp(file) if file else None
    return _of(scenario, shape, classes, other)


@lru_cache(maxsize=8)
def _of(scenario: Scenario, shape: tuple[int, ...], classes: int, _other: object) -> Plan:
    model = _model(scenario, shape, classes)
    layout, initial = Layout.of(model), to_vector(model)
    initial.setflags(write=False)
    scenario = for_size(scenario, layout.size)
    for name, link in (("uplink", scenario.uplink), ("downlink", scenario.downlink)):
        try:
            compressor(link, layout.sizes)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
    mechanism = plan_mechanism(scenario) if scenario.private else None
    return Plan(scenario, shape, classes, layout, initial, mechanism)


def simulated(scenario: Scenario) -> tuple[Plan, Source, tuple[SiteData, ...]]:
    """Return the plan of a scenario whose records are on this machine, their source and shares.

    Raises ValueError as `of` and `fedlite.data.spread.spread` do.
    """
    source, sites = spread(scenario)
    settled = settle_batch(scenario, len(source.train))
    return of(settled, source.shape, source.classes), source, sites


def compressor(link: Link, sections: tuple[int, ...] = ()) -> Compressor:
    """Return the compressor of a link, for a model whose tensors have the sizes `sections`.

    Raises ValueError when it refuses its settings.
    """
    return compression.make(
        link.compressor,
        density=link.density or None,
        values=link.values or None,
        bits=link.bits,
        unbiased=not link.error_feedback,
        sections=sections,
    )


def _model(scenario: Scenario, shape: tuple[int, ...], classes: int) -> Model:
    return build(scenario.model.name, shape, classes, seed=scenario.federation.seed)
