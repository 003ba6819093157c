"""Many small sites of one process trained at once, where that is faster and gives the same bits.

A simulation only: a deployed site trains alone. Whether a model may be trained so is not believed
but tried, on made-up records and with other values at every site: what each site gets must be, bit
for bit, what it gets alone. So a run's results do not depend on whether, or beside whom, a site was
trained together with others, and nothing has to be settled between processes.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlite.compression.running import RUNNING
from fedlite.models.checks import mixes_records
from fedlite.objectives import State
from fedlite.parameters import Vector, load_vector, to_vector
from fedlite.plan import Plan
from fedlite.privacy import ClientMechanism, Mechanism, RecordMechanism
from fedlite.privacy.noise import Stream
from fedlite.training import local, many
from fedlite.training.bench import Bench
from fedlite.training.blocks import Blocks
from fedlite.training.many import Work
from fedlite.training.share import Asked, Share, device_of, shared

log = logging.getLogger("fedlite.site")

MOST = 64
"""The most sites that are trained at once."""

# Models of so many values in all are held at once, each with its gradients and what its site keeps.
_VALUES = 2**23
# A run of fewer shares is over before it is known how to train faster.
_LEAST = 100
# Sites on which is tried whether bits are the same, and of a group that show how long one takes.
_TRIED, _TIMED = 3, 3
# Groups that show it, beside the first one, which meets what is not yet prepared.
_GROUPS = 2
# What together must be faster by: it takes more memory.
_GAIN = 1.05


def most(plan: Plan) -> int:
    """Return how many sites of a plan may be handed to training at once, from 1 to `MOST`."""
    federation = plan.scenario.federation
    if plan.weak or plan.shared is not None:
        # What each kind of site takes is told, and of a group only what all of it took is known.
        return 1
    if federation.rounds * federation.participants < _LEAST:
        return 1
    return max(1, min(MOST, _VALUES // plan.travelling.size))


class Together:
    """The sites of one plan in one process, and a model to train them on together.

    why: what keeps them from being trained together; empty where nothing does as yet.
    """

    def __init__(self, plan: Plan) -> None:
        """Make the model; nothing has been tried."""
        self.plan, settings = plan, plan.scenario
        self._bench = Bench(plan, device_of(settings.training.device))
        self._training, self._blocks = settings.training, Blocks()
        self._known: dict[tuple[str, int], bool] = {}
        # Processor seconds of a share, by way and group. Several sites each: of single ones the
        # quickest says how much times differ, and not what one takes.
        self._seconds: dict[str, list[float]] = {"alone": [], "together": []}
        self.why = ""
        if reason := self._unfit():
            self._refuse(reason)

    def _unfit(self) -> str:
        """Return what rules it out from the first; "" where nothing does."""
        plan, settings = self.plan, self.plan.scenario
        if plan.turns:
            return "not all values move in each round"
        if plan.shared is not None:
            return "their noise is shared"
        if any(stretch.name == RUNNING for stretch in plan.extras):
            return "its layers keep running statistics"
        if self._bench.device.type != "cpu":
            return "it is on another device than a processor"
        if settings.training.logit_adjustment:
            return "training.logit_adjustment gives each site a loss of its own"
        if settings.training.optimizer == "adam" and settings.privacy.unit != "record":
            return "training.optimizer adam keeps its steps site by site"
        if mixes_records(self._bench.model):
            return "a layer normalises by the records of a batch"
        for name, parameter in self._bench.model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                return f"'{name}' is {parameter.dtype}"
        return ""

    def shares(self, asked: Sequence[Asked]) -> tuple[list[Share | Exception], int]:
        """Return each site's share, or what it raised: the same as `Asked.alone`, bit for bit.

        All belong to this plan. Also returns how many of them were trained together.
        """
        found, together = dict[int, Share | Exception](), 0
        alike: dict[tuple[int, Mechanism | None], list[int]] = defaultdict(list)
        for at, one in enumerate(asked):
            if self._fits(one):
                alike[one.round, one.mechanism].append(at)
        for places in alike.values():
            if self._wins() is None:
                first = [asked[at] for at in places[:_TIMED]]
                ends = self._timed("alone", len(first), partial(_one_by_one, first))
                found.update(zip(places, ends, strict=False))
            left = [at for at in places if at not in found]
            if len(left) > 1 and self._wins() is not False:
                group = [asked[at] for at in left]
                ends = self._timed("together", len(left), partial(self._many, group))
                found.update(zip(left, ends, strict=True))
                together += len(left)
        for at, one in enumerate(asked):
            if at not in found:
                found[at] = _tried(one.alone)
        return [found[at] for at in range(len(asked))], together

    def _timed(self, way: str, shares: int, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        found = work()
        self._seconds[way].append((time.process_time() - started) / shares)
        return found

    def _wins(self) -> bool | None:
        """Whether together is faster; None as long as that is not known."""
        alone, together = (self._seconds[way][1:] for way in ("alone", "together"))
        if min(len(alone), len(together)) < _GROUPS:
            return None
        wins = min(alone) > _GAIN * min(together)
        if not wins and not self.why:
            self._refuse("it takes no less time together")
        return wins

    def _many(self, asked: list[Asked]) -> list[Share | Exception]:
        try:
            found = self._train([self._work(one) for one in asked], asked[0].mechanism)
        except (ValueError, RuntimeError) as error:
            # One site's fault may not be another's: each finds out by itself.
            log.debug("together: %s; one by one instead", error)
            return _one_by_one(asked)
        return [
            _tried(partial(self._share, one, *end)) for one, end in zip(asked, found, strict=True)
        ]

    def _work(self, one: Asked) -> Work:
        learner, plan = one.learner, self.plan
        model, extras = plan.split(one.received)
        work = Work(
            learner.inputs,
            learner.labels,
            learner.objective,
            model,
            plan.learning_rate(one.round),
            learner.before(one.kept, extras),
        )
        if isinstance(one.mechanism, RecordMechanism):
            # Opacus takes seconds to import, and most runs have no use for it.
            from fedlite.privacy import dpsgd

            seed = plan.scenario.privacy.simulate_seed
            return replace(work, streams=dpsgd.entropy(seed, one.round, one.site))
        if plan.scenario.privacy.unit == "record":
            raise ValueError("mechanism: needed because privacy.unit is record, got none")
        return replace(work, order=learner.shuffler(one.round, one.site))

    def _train(self, works: Sequence[Work], mechanism: Mechanism | None) -> list[many.End]:
        bench = self._bench
        bench.reset()
        with bench.kernels():
            if not isinstance(mechanism, RecordMechanism):
                return many.clear(bench.model, works, self._training)
            from fedlite.privacy.trial import block_of
            from fedlite.training.noised import noised

            work, batch = works[0], mechanism.expected_batch
            block = block_of(bench.model, work.inputs, work.labels, work.objective.loss, batch)
            steps = self._training.steps
            return noised(bench.model, works, mechanism, steps, block, self._blocks)

    def _share(self, one: Asked, values: Vector, after: tuple[State, ...]) -> Share:
        model, extras = self.plan.split(one.received)
        change: Vector = values - model
        trained = one.mechanism is None and len(one.learner.labels) > 0
        self._bench.frozen.check(change, trained=trained)
        if isinstance(one.mechanism, ClientMechanism) and one.mechanism.at == "site":
            change = one.learner.noised(change, one.mechanism, one.round, one.site)
        return shared(change, extras, one.learner.kept_of(after))

    def _fits(self, one: Asked) -> bool:
        """Whether a site's round is the same, bit for bit, together with others as alone."""
        if self.why:
            return False
        lengths = {b - a for a, b in local.cuts(len(one.learner.labels), self._training)}
        if isinstance(one.mechanism, RecordMechanism):
            lengths = {one.mechanism.expected_batch}
        return all(self._fits_batch(length, one) for length in lengths)

    def _fits_batch(self, length: int, one: Asked) -> bool:
        key = type(one.mechanism).__name__, length
        if key not in self._known:
            self._known[key] = self._same(length, one)
        return self._known[key] and not self.why

    def _same(self, length: int, one: Asked) -> bool:
        """Try it on made-up sites: two batches of this length, or two private steps."""
        model, training = self._bench.model, self._training
        self._training = replace(training, steps=2, batch_size=length)
        memory = _memory(model)
        try:
            works = self._made_up(length, one)
            _check_by_itself(model, works[0].inputs)
            copies = [copy.deepcopy(model)] * len(works)
            if not isinstance(one.mechanism, RecordMechanism):
                # Whether a copy may be trained privately is itself tried: of one, once.
                copies = [copy.deepcopy(model) for _ in works]
            truth = [
                self._alone(copied, work, one.mechanism)
                for copied, work in zip(copies, works, strict=True)
            ]
            found = self._train(self._made_up(length, one), one.mechanism)
        except Exception as error:  # whatever code of one's own raises
            told = str(error).strip().split("\n")[0]
            self._refuse(f"its model cannot be computed for several at once: {told}")
            return False
        finally:
            self._training = training
        if _memory(model) != memory:
            self._refuse("its model remembers what it has seen")
            return False
        same = all(_equal(a, b) for a, b in zip(truth, found, strict=True))
        if not same:
            log.debug("together: batches of %d records would round otherwise", length)
        return same

    def _refuse(self, why: str) -> None:
        self.why, self._blocks = why, Blocks()
        log.info("sites are trained one by one: %s", why)

    def _made_up(self, length: int, one: Asked) -> list[Work]:
        """Return the round of made-up sites, each with other values and other records."""
        model, plan, count = self._bench.model, self.plan, 2 * length
        if isinstance(one.mechanism, RecordMechanism):
            # Samples are filled up to blocks of one size.
            count = length
        with torch.no_grad():
            inputs = model.prepare(model.made_up(count))
        labels = plan.task.made_up(count, plan.classes)
        base, rng = to_vector(model), np.random.default_rng(0)
        before = one.learner.before({}, plan.split(plan.first)[1])
        return [
            Work(
                inputs[rows],
                labels[rng.permutation(count)],
                one.learner.objective,
                base + rng.normal(scale=0.1, size=base.size).astype(np.float32),
                plan.learning_rate(1),
                before,
                np.random.default_rng(site),
                (Stream.seeded("sampling", site), Stream.seeded("noise", site)),
            )
            for site in range(_TRIED)
            for rows in [rng.permutation(count)]
        ]

    def _alone(self, model: nn.Module, work: Work, mechanism: Mechanism | None) -> many.End:
        training = self._training
        load_vector(model, work.values)
        with self._bench.kernels(model):
            if not isinstance(mechanism, RecordMechanism):
                after = local.train(
                    model,
                    local.flatten(model),
                    work.inputs,
                    work.labels,
                    work.objective,
                    training,
                    learning_rate=work.rate,
                    rng=work.own_order,
                    kept=work.before,
                )
                return to_vector(model), after
            from fedlite.privacy import dpsgd

            states = work.objective.begin(torch.from_numpy(work.values), work.before)
            sampler, noise = work.own_streams
            dpsgd.train(
                model,
                work.inputs,
                work.labels,
                work.objective.loss,
                mechanism,
                steps=training.steps,
                learning_rate=work.rate,
                sampler=sampler,
                noise=noise,
                after=partial(work.objective.add_terms, states=states) if states else None,
            )
            return to_vector(model), ()


def _tried(work: Callable[[], Share]) -> Share | Exception:
    try:
        return work()
    except Exception as error:  # raised again where the site is that it belongs to
        return error


def _one_by_one(asked: Sequence[Asked]) -> list[Share | Exception]:
    return [_tried(one.alone) for one in asked]


def _equal(one: many.End, other: many.End) -> bool:
    def same(a: State, b: State) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return np.array_equal(one[0], other[0]) and all(map(same, one[1], other[1]))


def _memory(model: nn.Module) -> list[Any]:
    """Return what modules hold beside tensors and each other: what may be of records seen."""
    return [
        [(name, id(value), len(value) if isinstance(value, Sized) else 0)]
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in ("training", "forward")
    ]


def _check_by_itself(model: nn.Module, inputs: Tensor) -> None:
    """Raise RuntimeError where a record's answer is random or may depend on what others are."""

    def one(record: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(record[None]))

    model.train()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.func.vmap(one, randomness="error")(inputs)
