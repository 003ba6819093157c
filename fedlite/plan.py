"""The plan: what both ends of a federation compute from public settings, before anybody trains.

A server and its sites never send each other a model's layout, a first vector, a noise multiplier or
a codec. Each computes them here, from the same scenario, and a frame made by one plan is refused by
another. So it is made once a process, and everything else takes it: the round loop, a site, the
page that its operator approves, the evaluation, the baselines and the attacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from fedlite import compression, objectives, protection, tasks
from fedlite.compression import Compressor, Dense, Joined, Part, Stretch, pieces_of
from fedlite.compression.running import statistics
from fedlite.compression.support import Support
from fedlite.data import Source
from fedlite.data.shares import Shares
from fedlite.data.spread import spread, weak_of
from fedlite.models import Model, build, checks, load_start
from fedlite.parameters import (
    Layout,
    Portion,
    Vector,
    load_running,
    load_vector,
    to_vector,
    turns_of,
)
from fedlite.privacy import ClientMechanism, Mechanism, SharedMechanism
from fedlite.privacy.longest import longest
from fedlite.protection import plan_mechanism, round_steps, settle_batch, unit_of
from fedlite.registry import line_of
from fedlite.scenario import Link, Scenario, own_code, own_stamps
from fedlite.scenario.links import for_size
from fedlite.settings import read_options
from fedlite.storage import stamp
from fedlite.tasks import Task, loss_of


@dataclass(frozen=True, eq=False)
class Plan:
    """A scenario with all that follows from it, for records of one shape.

    scenario: settled; nothing in it is left open. shape: of one record. classes: the width of an
    answer, at least 1: how many classes, labels or targets there are.
    layout: of the model's trainable tensors, n values in all. initial: float32 [n], the model of
    round 1, read-only. mechanism: what protects an update, with a noise that spends
    `privacy.epsilon` over all planned rounds; None where the privacy unit is none. term: what the
    objective adds to the loss, if anything. extras: what travels behind the model's values.
    running: the statistics that its layers keep while they train, the first of the extras.
    turns: what moves in which round, where not everything does in each. products: what the model
    multiplies (`Branched.products`). weak: the sites that train the shallow branch alone. whole: of
    the plan by which such a site trains (`fedlite.depth`), the whole model's; else None.
    """

    scenario: Scenario
    shape: tuple[int, ...]
    classes: int
    layout: Layout
    initial: Vector
    mechanism: Mechanism | None = None
    term: objectives.Term | None = None
    extras: tuple[Stretch, ...] = ()
    running: Layout = Layout((), ())  # noqa: RUF009 - frozen
    turns: tuple[Portion, ...] = ()
    products: tuple[tuple[str, str], ...] = ()
    weak: frozenset[str] = frozenset()
    whole: Plan | None = None

    @cached_property
    def stored(self) -> Layout:
        """The layout of a trained model: its trainable tensors, and its running statistics."""
        return self.layout.with_behind(self.running)

    def load(self, model: Model, vector: Vector) -> None:
        """Copy a trained model, as `stored` lays it out, into `model`; what is behind it is left.

        Raises ValueError when it is shorter.
        """
        if vector.ndim != 1 or vector.size < self.stored.size:
            raise ValueError(
                f"vector: a trained model has {self.stored.size} values, got shape {vector.shape}"
            )
        load_vector(model, vector[: self.layout.size])
        load_running(model, vector[self.layout.size :])

    @cached_property
    def travelling(self) -> Layout:
        """The layout of the vector that travels: the model's, and behind it the extras."""
        if not self.extras:
            return self.layout
        names = tuple(f"extra {stretch.name}" for stretch in self.extras)
        shapes = tuple(stretch.initial.shape for stretch in self.extras)
        layout = self.layout
        return Layout(layout.names + names, layout.shapes + shapes, layout.frozen)

    @cached_property
    def first(self) -> Vector:
        """The vector of round 1 that travels, read-only."""
        if not self.extras:
            return self.initial
        whole = np.concatenate([self.initial, *(stretch.initial for stretch in self.extras)])
        whole.setflags(write=False)
        return whole

    def split(self, vector: Vector) -> tuple[Vector, dict[str, Vector]]:
        """Return the model in a vector that travels, and the extras by name, all as views."""
        sizes = (self.layout.size, *(stretch.initial.size for stretch in self.extras))
        model, *rest = pieces_of(vector, sizes)
        return model, {
            stretch.name: piece for stretch, piece in zip(self.extras, rest, strict=True)
        }

    def reference(self, step: Vector) -> Vector:
        """Return what sites subtract from an update, and the server adds again, float32.

        step: what the last broadcast changed. Nothing for the extras, float32 zeros.
        """
        share = np.float32(self.scenario.uplink.aggregate_feedback) * step
        share[self.layout.size :] = 0
        return share

    @cached_property
    def task(self) -> Task:
        """What the model learns to answer."""
        return _task(self.scenario)

    def model(self) -> Model:
        """Return a new model with the first weights; of a weak site's plan the shallow branch."""
        model = _model(self.scenario, self.shape, self.classes)
        return model if self.whole is None else model.early()

    def check_model(self) -> None:
        """Raise ValueError, naming the tensor or the layer, where the model cannot be trained."""
        privacy, loss = self.scenario.privacy, loss_of(self.task, self.scenario.training)
        batch = privacy.expected_batch if privacy.unit == "record" else 0
        checks.check(self.model(), self.task, private=self.scenario.private, batch=batch, loss=loss)
        if self.term is not None:
            objectives.check(self.term, self.scenario.training.objective, self.layout.size)

    @cached_property
    def uplink(self) -> Compressor:
        """What compresses an update."""
        return self._with_extras(self._up, [stretch.up for stretch in self.extras])

    @cached_property
    def downlink(self) -> Compressor:
        """What compresses a broadcast."""
        down = compressor(self.scenario.downlink, self.layout.sizes)
        extras = [stretch.down for stretch in self.extras]
        # A dense frame is a whole vector, and starts from nothing.
        whole = all(one.codec == Dense.codec for one in (down, *extras))
        return down if whole else self._with_extras(down, extras)

    def turn(self, round_number: int) -> Portion | None:
        """Return what moves in a round (from 1); None where everything does."""
        return self.turns[(round_number - 1) % len(self.turns)] if self.turns else None

    def up(self, round_number: int) -> Compressor:
        """Return what compresses an update of a round."""
        return self._of_turn(self.turn(round_number), self.scenario.uplink) or self.uplink

    def down(self, round_number: int) -> Compressor:
        """Return what compresses the broadcast of a round: of what the round before it moved."""
        return self._of_turn(self.turn(round_number - 1), self.scenario.downlink) or self.downlink

    def _of_turn(self, turn: Portion | None, link: Link) -> Compressor | None:
        if turn is None:
            return None
        return Part(self.layout.size, turn.moving, compressor(link, turn.sizes))

    @cached_property
    def _up(self) -> Compressor:
        """What compresses the model's part of an update."""
        return compressor(self.scenario.uplink, self.layout.sizes)

    def _with_extras(self, model: Compressor, extras: list[Compressor]) -> Compressor:
        if not extras:
            return model
        sizes = [stretch.initial.size for stretch in self.extras]
        return Joined(((self.layout.size, model), *zip(sizes, extras, strict=True)))

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

    @property
    def shared(self) -> SharedMechanism | None:
        """The mechanism when sites share their noise, and only their sums are seen."""
        return self.mechanism if isinstance(self.mechanism, SharedMechanism) else None

    def support(self, round_number: int) -> Support:
        """Return which coordinates the sum of a round is of, where noise is shared."""
        return protection.support_of(self.scenario, self.layout, round_number)

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
        mechanism = None if self.central else self.mechanism
        if isinstance(mechanism, SharedMechanism | None) or link.aggregate_feedback:
            return 0.0
        factor = compression.gain(self._up, feedback=link.error_feedback)
        if math.isinf(factor):
            return 0.0
        return factor * longest(
            mechanism,
            max((turn.moving.size for turn in self.turns), default=self.layout.size),
            steps=self.round_steps,
            learning_rate=scenario.training.learning_rate,
            updates=scenario.federation.rounds * scenario.federation.sites,
        )

    @cached_property
    def up_limit(self) -> int:
        """The most bytes that the body of an update's frame has."""
        padding = compression.PAD_BYTES if self.scenario.noised_at_server else 0
        return self._limit(self.up) + padding

    @cached_property
    def down_limit(self) -> int:
        """The most bytes that the body of a broadcast's frame has, unless it is a whole model."""
        return self._limit(self.down)

    def _limit(self, link: Callable[[int], Compressor]) -> int:
        rounds = range(1, max(1, len(self.turns)) + 1)
        return max(link(number).limit(self.travelling.size) for number in rounds)

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


def of(
    scenario: Scenario, shape: tuple[int, ...], classes: int, weak: Set[str] = frozenset()
) -> Plan:
    """Return the plan of a scenario for records of this shape; the last few are kept.

    weak: the sites that were drawn to train the shallow branch alone, beside those that the
    scenario names.

    Raises ValueError when the model does not fit the shape, a compressor refuses its settings, or
    no noise keeps `privacy.epsilon`, and when `privacy.expected_batch` has not been settled.

    >>> from fedlite.scenario import from_dict
    >>> plan = of(from_dict({"model": {"name": "mlp"}}), (1, 8, 8), 10)
    >>> plan.layout.size, plan.uplink.name, plan.unit
    (3796, 'dense', 'none')
    """
    # Scenarios are equal that differ in what they left open, and by name a file is what it was.
    start = stamp(Path(scenario.model.start)) if scenario.model.start else None
    code = own_stamps(scenario, *own_code(scenario))
    other = scenario.notes, scenario.open_links, code, start
    return _of(scenario, shape, classes, frozenset(weak | {*scenario.federation.weak_named}), other)


@lru_cache(maxsize=8)
def _of(
    scenario: Scenario, shape: tuple[int, ...], classes: int, weak: frozenset[str], _other: object
) -> Plan:
    _task(scenario)
    model = _model(scenario, shape, classes)
    layout, initial = Layout.of(model), to_vector(model)
    initial.setflags(write=False)
    scenario = for_size(scenario, layout.size)
    for name, link in (("uplink", scenario.uplink), ("downlink", scenario.downlink)):
        try:
            compressor(link, layout.sizes)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
    scenario = protection.settle_coordinates(scenario, layout)
    mechanism = plan_mechanism(scenario, layout) if scenario.private else None
    chosen = scenario.training
    term = objectives.make(chosen.objective, read_options(chosen.objective_options))
    running = Layout.running(model)
    kept = statistics(model, running, private=scenario.private)
    extras = (*kept, *_extras(scenario, layout, term))
    turns = turns_of(layout, model.standing())
    protection.check_turns(scenario, len(turns))
    if turns or weak:
        objectives.check_portions(term, scenario, turns=bool(turns), alone=not extras)
    return Plan(
        scenario,
        shape,
        classes,
        layout,
        initial,
        mechanism,
        term,
        extras,
        running,
        turns,
        model.products(),
        weak,
    )


def _extras(
    scenario: Scenario, layout: Layout, term: objectives.Term | None
) -> tuple[Stretch, ...]:
    """Return what travels behind the model; each as long as it and compressed by its links."""
    names = term.extras if term else ()
    if names and scenario.private:
        raise ValueError(
            "training.objective: must send nothing beside the model when privacy.unit is not none "
            "(rule: the mechanism covers one vector), got "
            f"{scenario.training.objective!r}, which sends {', '.join(names)}; use plain"
        )
    # What is left out of a site's own value is in the next change of it, and so may not be scaled.
    up = compressor(replace(scenario.uplink, error_feedback=True), layout.sizes)
    down = compressor(scenario.downlink, layout.sizes)
    zeros = np.zeros(layout.size, np.float32)
    return tuple(Stretch(name, zeros, up, down, per_site=True) for name in names)


def simulated(scenario: Scenario) -> tuple[Plan, Source, Shares]:
    """Return the plan of a scenario whose records are on this machine, their source and shares.

    Raises ValueError as `of` and `fedlite.data.spread.spread` do.
    """
    _task(scenario)
    source, sites = spread(scenario)
    settled = settle_batch(scenario, len(source.train))
    weak = weak_of(settled, sites.names)
    return of(settled, source.shape, source.classes, weak), source, sites


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
        options=read_options(link.options),
    )


def _task(scenario: Scenario) -> Task:
    """Return the task; raises ValueError where the scenario takes it for one of other records."""
    chosen = scenario.task
    made = tasks.make(chosen.name, read_options(chosen.options))
    if made.like != chosen.reads:
        raise ValueError(
            f"task.like: must be {made.like!r} for {chosen.name!r}, as its class says (rule: "
            f"records are read where its code does not run), got {chosen.like!r}; set task.like to "
            f"it, or `like` of the class in {line_of(type(made))}"
        )
    return made


def _model(scenario: Scenario, shape: tuple[int, ...], classes: int) -> Model:
    chosen, seed = scenario.model, scenario.federation.seed
    model = build(chosen.name, shape, classes, seed=seed, **read_options(chosen.options))
    if chosen.start:
        load_start(model, Path(chosen.start))
    return model
