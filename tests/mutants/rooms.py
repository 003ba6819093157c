"""Mutants of the rooms around the private step: plan, learner, site, ledger, message, data.

Each is a function that spoils the real code through a `pytest.MonkeyPatch`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord

from clients import opening
from clients.runtime.masking import Masking
from clients.site import Site
from fedlite import compression, plan as plans
from fedlite.data import Dataset
from fedlite.data.folds import stratified_folds
from fedlite.flower import wire
from fedlite.guard.guardian import Decline, Guardian
from fedlite.inference import counted, noisy
from fedlite.messages import Code
from fedlite.privacy import ClientMechanism, client, counting, dpsgd
from fedlite.privacy.budget import Account, Budget, account as accounts, budget, ceilings
from fedlite.privacy.budget.plans import Plan
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger import Files, forget
from fedlite.privacy.noise import Stream
from fedlite.scenario import rules, with_values
from fedlite.secure.group import Group
from fedlite.training import Learner
from fedlite.training.objective import Objective, class_offsets
from server.updates import Updates

Patch = pytest.MonkeyPatch


# The learner and its plan.


def clear_updates_under_unit_client(patch: Patch) -> None:
    patch.setattr(client, "privatize", lambda update, mechanism, noise: update)


def half_the_sigma_in_the_learner(patch: Patch) -> None:
    train = Learner.share

    def spoilt(
        self: Learner, received: Any, number: int, site: int, mechanism: Any, *kept: Any
    ) -> Any:
        if mechanism is not None:
            sigma = mechanism.noise_multiplier / 2
            mechanism = replace(mechanism, noise_multiplier=sigma)
        return train(self, received, number, site, mechanism, *kept)

    patch.setattr(Learner, "share", spoilt)


def one_step_more_than_reserved(patch: Patch) -> None:
    train = dpsgd.train
    patch.setattr(dpsgd, "train", lambda *a, steps, **more: train(*a, steps=steps + 1, **more))


def logit_adjustment_in_a_private_learner(patch: Patch) -> None:
    begin = Learner.__init__

    def spoilt(self: Learner, plan: Any, train: Any, bench: Any = None) -> None:
        begin(self, plan, train, bench)
        offsets = class_offsets(self.labels, plan.classes)
        self.objective = Objective.of(plan.task, plan.scenario.training, offsets)

    patch.setattr(Learner, "__init__", spoilt)
    patch.setattr(Objective, "check_private", lambda self: None)


def logit_adjustment_allowed_by_the_rule(patch: Patch) -> None:
    found = rules._private_checks
    patch.setattr(
        rules,
        "_private_checks",
        lambda scenario: [line for line in found(scenario) if "logit_adjustment" not in line],
    )


def expected_batch_from_the_sites_own_records(patch: Patch) -> None:
    ready = opening._ready

    def spoilt(
        plan: Any, name: str, train: Any, state: Any, guard: Any, *rest: Any, keeps: bool
    ) -> Site:
        if plan.scenario.privacy.unit == "record":
            own = with_values(plan.scenario, "privacy", expected_batch=len(train))
            plan = plans.of(own, plan.shape, plan.classes)
            guard = replace(guard, mechanism=plan.mechanism)
        # A plan of its own has a model of its own.
        return ready(plan, name, train, state, guard, rest[0], keeps=keeps)

    patch.setattr(opening, "_ready", spoilt)


def batch_settled_from_the_sites_own_records(patch: Patch) -> None:
    settle = plans.settle_batch

    def own(scenario: Any) -> Any:
        source, sites = plans.spread(scenario)
        settled = settle(scenario, len(sites[0].train))
        return plans.of(settled, source.shape, source.classes), source, sites

    patch.setattr(plans, "simulated", own)


def sensitivity_off_by_two(patch: Patch) -> None:
    patch.setattr(ClientMechanism, "sensitivity", property(lambda self: self.clip))


def server_noise_from_a_public_seed(patch: Patch) -> None:
    def spoilt(self: Updates, at: int, total: Any, weight: float) -> Any:
        noise = Stream.seeded(self._plan.scenario.federation.seed, self._number)
        participants = self._plan.scenario.federation.participants
        return client.noised_mean(total, participants, self._plan.central, noise)  # type: ignore[arg-type]

    patch.setattr(Updates, "_noised_mean", spoilt)


def no_noise_in_the_server_app(patch: Patch) -> None:
    patch.setattr(plans.Plan, "central", None)


# What a site sends, and what it keeps.


def clean_residual_fed_back(patch: Patch) -> None:
    train, pack = Learner.share, Site._compress

    def training(
        self: Learner, received: Any, number: int, site: int, mechanism: Any, *kept: Any
    ) -> Any:
        silent = replace(mechanism, noise_multiplier=1e-6)
        found = train(self, received, number, site, silent)
        self.clean = found.delta  # type: ignore[attr-defined]
        return train(self, received, number, site, mechanism, *kept)

    def packing(self: Site, state: Any, share: Any, *rest: Any) -> Generator[Any, Any, bytes]:
        before = state.residual
        frame = yield from pack(self, state, share, *rest)
        clean = before + self.learner.clean  # type: ignore[attr-defined]
        state.pending.residual += clean - state.pending.unsent
        state.pending.unsent = clean
        return frame

    patch.setattr(Learner, "share", training)
    patch.setattr(Site, "_compress", packing)


def a_private_loss_sent_as_a_metric(patch: Patch) -> None:
    answer = wire.answer

    def spoilt(blob: bytes, message: Any) -> Any:
        reply = answer(blob, message)
        reply.content["metrics"] = MetricRecord({"loss": 0.69})
        return reply

    patch.setattr(wire, "answer", spoilt)


def a_private_loss_sent_as_the_record_count(patch: Patch) -> None:
    pack = compression.pack
    patch.setattr(
        compression, "pack", lambda envelope, codec, body, _: pack(envelope, codec, body, 690)
    )


# The ledger.


def history_forgotten_between_rounds(patch: Patch) -> None:
    """The ledger charges only the current round: its plan never ends."""
    reserve = accounts._TAKE["reserve"]

    def spoilt(self: Account, row: Any, body: Any) -> None:
        self._reserved[body["plan"]] = 0
        reserve(self, row, body)

    patch.setitem(accounts._TAKE, "reserve", spoilt)
    patch.setattr(Account, "reserved", lambda self, plan: 0)


def history_forgotten_between_runs(patch: Patch) -> None:
    admissible = budget.admissible

    def spoilt(plan: Any, others: Any, *rest: Any) -> Any:
        found = admissible(plan, [], *rest)
        return replace(found, bound="rdp") if others else found

    patch.setattr(budget, "admissible", spoilt)


def a_rate_recorded_that_was_not_used(patch: Patch) -> None:
    asked = budget.asked_plan

    def spoilt(*arguments: Any, **more: Any) -> Any:
        plan = asked(*arguments, **more)
        return replace(plan, sampling_rate=plan.sampling_rate / 2)

    patch.setattr(budget, "asked_plan", spoilt)


def a_charge_given_back_after_a_failure(patch: Patch) -> None:
    take_part = Site.take_part

    def spoilt(self: Site, instruction: Any) -> Any:
        try:
            return take_part(self, instruction)
        except BaseException as error:
            if isinstance(error, Decline) and error.code != Code.FAILED:
                raise
            ledger = self.guardian.home.ledger  # type: ignore[union-attr]
            lines = ledger.read_bytes().splitlines(keepends=True)
            ledger.write_bytes(b"".join(line for line in lines if b'"reserve"' not in line))
            forget(ledger)
            raise

    patch.setattr(Site, "take_part", spoilt)


def a_charge_given_back_for_steps_not_run(patch: Patch) -> None:
    settle = accounts._TAKE["settle"]

    def spoilt(self: Account, row: Any, body: Any) -> None:
        settle(self, row, body)
        of = self.reservations[body["of"]]
        self._reserved[of.plan] -= of.steps - body["steps"]

    patch.setitem(accounts._TAKE, "settle", spoilt)


def rows_that_are_never_flushed(patch: Patch) -> None:
    patch.setattr(Files, "fsync", lambda self, handle: None)


def a_release_before_its_flush(patch: Patch) -> None:
    """The update leaves, and its row is written with the next one."""
    release, reserve = Budget.release, Budget.reserve
    waiting: list[tuple[str, int, bytes]] = []

    def reserving(self: Budget, *arguments: Any) -> Any:
        while waiting:
            release(self, *waiting.pop())
        return reserve(self, *arguments)

    patch.setattr(Budget, "release", lambda self, *arguments: waiting.append(arguments))
    patch.setattr(Budget, "reserve", reserving)


def training_before_its_reservation(patch: Patch) -> None:
    train, reserve = Learner.share, Guardian.reserve
    owed: list[Any] = []

    def reserving(self: Guardian, instruction: Any) -> None:
        owed.append(lambda: reserve(self, instruction))

    def training(self: Learner, *arguments: Any) -> Any:
        found = train(self, *arguments)
        owed.pop()()
        return found

    patch.setattr(Guardian, "reserve", reserving)
    patch.setattr(Learner, "share", training)


# Counts of calibration records.


def counts_without_noise(patch: Patch) -> None:
    """Counts leave as they are, and are charged as if they did not."""
    patch.setattr(counting, "noised", lambda cells, noise_multiplier, stream: cells.copy())


def half_the_noise_on_counts(patch: Patch) -> None:
    """A factor of two that is lost on the way from the plan to the cells."""
    noised = counting.noised
    patch.setattr(counting, "noised", lambda cells, sigma, stream: noised(cells, sigma / 2, stream))


def counts_of_records_that_move_two_cells(patch: Patch) -> None:
    """Cumulative counts are noised: one record more is one more in all looser cells."""
    coarser = counted.coarser
    patch.setattr(counted, "coarser", lambda cells: coarser(cells).cumsum(axis=1))


def a_threshold_that_takes_noised_counts_for_exact_ones(patch: Patch) -> None:
    """The bounds of the noise are left out, and the promise with them."""
    patch.setattr(noisy, "at_most", lambda cells, sigma, chance: 0)


# The data.


def a_hold_out_that_shifts(patch: Patch) -> None:
    """Folds by a shuffle of all records: one more moves the others."""

    def spoilt(records: Dataset, folds: int, seed: int) -> Any:
        return stratified_folds(records.y, folds, np.random.default_rng(seed))

    # The package has a function of the module's name.
    patch.setattr(import_module("fedlite.data.partition"), "keyed_folds", spoilt)


def members_that_nobody_approved(patch: Patch) -> None:
    patch.setattr(Group, "check_approved", lambda self, approved: None)


def more_members_taken_for_honest_than_are_trusted(patch: Patch) -> None:
    patch.setattr(Policy, "trusts", lambda self, honest: True)


def a_ceiling_for_collusion_that_is_not_held(patch: Patch) -> None:
    patch.setattr(ceilings, "_counting_on_others", lambda plans: False)


def the_noise_of_all_counted_as_a_sites_own(patch: Patch) -> None:
    patch.setattr(Plan, "by_itself", property(lambda self: self))


def numbers_that_leave_without_masks(patch: Patch) -> None:
    patch.setattr(Masking, "masked", lambda self, asked, frame: frame)
