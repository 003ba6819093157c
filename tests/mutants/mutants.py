"""The table: what may go wrong in the code that protects people, and the tests that see it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.clients import test_counting as counts, test_site, test_site_ledger, test_wiring as site
from tests.clients.runtime import test_masking
from tests.data import test_keyed
from tests.guard import test_egress
from tests.inference import test_noisy
from tests.mutants import rooms, steps
from tests.privacy import small, test_counting, test_dpsgd
from tests.privacy.budget import holder, test_budget, test_plans, test_shared_plans as shared
from tests.scenario import tables, test_rules
from tests.server import test_wiring as server
from tests.simulations import test_wiring
from tests.tiny import client_plan, record_plan


@dataclass(frozen=True)
class Check:
    """A test of the suite that a mutant must fail, with the case it is run on."""

    test: Callable[..., None]
    case: tuple[Any, ...] = ()

    @cached_property
    def name(self) -> str:
        """The test as pytest names it, without its case."""
        module = self.test.__module__.removeprefix("tests.").replace(".", "/")
        return f"{module}.py::{self.test.__name__}"

    def run(self, folder: Path) -> None:
        """Run the test with what it takes from fixtures: a folder, or a budget's site in it."""
        names = inspect.signature(self.test).parameters
        fixtures: dict[str, Any] = {"tmp_path": folder}
        if "site" in names:
            fixtures["site"] = holder.Site(folder / "scans.jsonl")
        self.test(*self.case, **{name: fixtures[name] for name in names if name in fixtures})


@dataclass(frozen=True)
class Mutant:
    """A way to spoil the code, and the checks that must each fail for it."""

    patch: Callable[[pytest.MonkeyPatch], None]
    killed_by: tuple[Check, ...] = field(default=())

    @property
    def name(self) -> str:
        """What is wrong, in words."""
        return self.patch.__name__.replace("_", " ")


def mutant(patch: Callable[[pytest.MonkeyPatch], None], *checks: Check) -> Mutant:
    """Return a mutant with its checks."""
    return Mutant(patch, checks)


RECORD = Check(site.test_a_record_site_sends_the_noise_of_its_plan_row)
STEPS = Check(site.test_the_noise_of_a_round_is_that_of_the_steps_it_reserved)
CLIENT = Check(site.test_a_client_site_sends_the_noise_of_its_plan_row)
SERVER = Check(server.test_the_server_adds_the_noise_of_the_sites_plan_row)
SEEDS = Check(site.test_no_seed_repeats_the_noise_of_a_site, (record_plan,))
CLIENT_SEEDS = Check(site.test_no_seed_repeats_the_noise_of_a_site, (client_plan,))
SERVER_SEEDS = Check(server.test_no_seed_repeats_the_noise_of_the_server)
GRID = Check(site.test_what_a_site_sends_lies_on_the_public_grid, (record_plan,))
CLIENT_GRID = Check(site.test_what_a_site_sends_lies_on_the_public_grid, (client_plan,))
SERVER_GRID = Check(server.test_what_the_server_adds_lies_on_the_public_grid)
SUM = Check(site.test_an_update_is_the_sum_of_its_clipped_records)
LOOP = Check(
    test_dpsgd.test_ghost_clipping_equals_a_loop_over_single_records, (small.linear, 0.05, 1.0)
)
LOOP_OF_SAMPLES = Check(LOOP.test, (small.linear, 0.05, 0.5))
HEADS = Check(test_dpsgd.test_both_heads_share_one_clip)
SAMPLES = Check(site.test_batches_are_the_poisson_samples_of_the_plan_row)
KEPT = Check(site.test_what_a_site_keeps_for_later_is_as_noised_as_what_it_sends, (record_plan,))
CLIENT_KEPT = Check(KEPT.test, (client_plan,))
PLACES = Check(site.test_the_places_that_are_sent_do_not_follow_the_records)
ORDER = Check(site.test_steps_and_releases_are_flushed_before_they_happen)
CRASH = Check(
    test_site_ledger.test_steps_are_on_disk_before_the_first_is_taken_and_end_with_the_plan
)

MUTANTS = (
    mutant(steps.no_noise, RECORD, CLIENT, SERVER),
    mutant(steps.none_on_the_last_coordinate, RECORD, CLIENT, SERVER),
    mutant(steps.none_on_the_exit_head, RECORD, CLIENT, SERVER),
    mutant(steps.half_the_noise, RECORD, CLIENT, SERVER),
    mutant(steps.noise_over_the_root_of_two, RECORD, STEPS, CLIENT, SERVER),
    mutant(steps.the_same_noise_every_step, STEPS),
    mutant(steps.the_same_noise_every_round, RECORD, CLIENT, SERVER),
    mutant(steps.noise_from_a_public_seed, SEEDS, CLIENT_SEEDS, SERVER_SEEDS),
    mutant(steps.noise_from_the_global_seed_of_torch, SEEDS, CLIENT_SEEDS, SERVER_SEEDS),
    mutant(rooms.server_noise_from_a_public_seed, SERVER_SEEDS),
    mutant(steps.float_noise, GRID, CLIENT_GRID, SERVER_GRID),
    mutant(steps.noise_on_selected_coordinates_only, RECORD, PLACES),
    mutant(steps.top_k_before_the_noise, RECORD, PLACES),
    mutant(rooms.clear_updates_under_unit_client, CLIENT),
    mutant(
        rooms.no_noise_in_the_server_app,
        Check(test_wiring.test_a_whole_run_adds_the_noise_of_its_plan_rows, ("client-server",)),
    ),
    mutant(rooms.half_the_sigma_in_the_learner, RECORD, CLIENT),
    mutant(rooms.sensitivity_off_by_two, CLIENT),
    mutant(
        steps.no_clip,
        SUM,
        LOOP,
        Check(site.test_a_client_site_cuts_its_update_to_the_clip),
        Check(server.test_the_server_cuts_every_update_to_the_clip),
    ),
    mutant(steps.clip_after_averaging, SUM, LOOP),
    mutant(steps.clip_per_layer, SUM, LOOP, HEADS),
    mutant(steps.clip_per_branch, SUM, LOOP, HEADS),
    mutant(steps.noise_divided_by_the_batch_twice, RECORD),
    mutant(steps.divided_by_the_real_batch, RECORD, LOOP, LOOP_OF_SAMPLES),
    mutant(
        rooms.expected_batch_from_the_sites_own_records,
        Check(site.test_all_sites_have_one_plan_whatever_they_hold),
    ),
    mutant(
        rooms.batch_settled_from_the_sites_own_records,
        Check(site.test_a_settled_batch_is_that_of_the_source_and_not_of_the_site),
    ),
    mutant(rooms.logit_adjustment_in_a_private_learner, SUM),
    mutant(
        rooms.logit_adjustment_allowed_by_the_rule,
        Check(
            test_rules.test_rules_between_keys,
            (
                {
                    "privacy": tables.PRIVATE,
                    "training": {"steps": 1, "logit_adjustment": True},
                },
                "training.logit_adjustment",
                "must be false when privacy.unit is record",
            ),
        ),
    ),
    mutant(steps.every_record_in_every_step, SAMPLES),
    mutant(steps.shuffled_sampler, SAMPLES),
    mutant(steps.fixed_size_sampler, SAMPLES),
    mutant(steps.empty_batches_skipped, SAMPLES),
    mutant(
        steps.empty_batches_not_noised,
        Check(test_dpsgd.test_an_empty_poisson_sample_is_a_step_of_pure_noise),
    ),
    mutant(steps.sampler_from_a_public_seed, Check(site.test_no_seed_repeats_the_samples)),
    mutant(rooms.a_rate_recorded_that_was_not_used, SAMPLES),
    mutant(rooms.one_step_more_than_reserved, RECORD, STEPS, SAMPLES),
    mutant(rooms.clean_residual_fed_back, KEPT, CLIENT_KEPT),
    mutant(
        rooms.a_private_loss_sent_as_a_metric,
        Check(
            test_egress.test_a_private_update_leaves_with_its_head_under_an_allowed_unit_only,
            ("record",),
        ),
    ),
    mutant(
        rooms.a_private_loss_sent_as_the_record_count,
        Check(test_site.test_the_record_count_leaves_only_when_the_scenario_says_so),
    ),
    mutant(rooms.history_forgotten_between_rounds, CRASH),
    mutant(
        rooms.history_forgotten_between_runs,
        Check(test_plans.test_two_servers_and_a_restart_do_not_get_more_than_the_ceiling),
        Check(test_plans.test_what_a_plan_left_unused_is_not_given_to_another),
    ),
    mutant(rooms.a_charge_given_back_after_a_failure, CRASH),
    mutant(
        rooms.a_charge_given_back_for_steps_not_run,
        Check(test_budget.test_fewer_steps_than_reserved_may_be_settled_and_give_nothing_back),
    ),
    mutant(rooms.training_before_its_reservation, ORDER),
    mutant(rooms.a_release_before_its_flush, ORDER),
    mutant(rooms.rows_that_are_never_flushed, ORDER),
    mutant(
        rooms.counts_without_noise,
        Check(test_counting.test_the_noise_is_a_gaussian_rounded_to_whole_records),
        Check(counts.test_private_counts_have_noise_and_stand_in_the_ledger_before_they_leave),
    ),
    mutant(
        rooms.half_the_noise_on_counts,
        Check(test_counting.test_the_noise_is_a_gaussian_rounded_to_whole_records),
    ),
    mutant(
        rooms.counts_of_records_that_move_two_cells,
        Check(counts.test_a_record_is_counted_alike_whatever_stands_beside_it),
    ),
    mutant(
        rooms.a_threshold_that_takes_noised_counts_for_exact_ones,
        Check(test_noisy.test_the_promise_is_kept_as_often_as_it_says, (3.7,)),
    ),
    mutant(
        rooms.a_hold_out_that_shifts,
        Check(test_keyed.test_every_row_of_a_table_moves_no_other, (60, "iid", 1, 0.2, 1_000_000)),
    ),
    mutant(
        rooms.members_that_nobody_approved,
        Check(test_masking.test_different_lists_for_two_sites_do_not_make_a_sum),
    ),
    mutant(
        rooms.more_members_taken_for_honest_than_are_trusted,
        Check(test_masking.test_a_plan_that_counts_on_more_than_the_policy_trusts_is_refused),
        Check(shared.test_a_plan_that_counts_on_more_than_are_trusted_is_refused_and_leaves_no_row),
    ),
    mutant(
        rooms.a_ceiling_for_collusion_that_is_not_held,
        Check(test_masking.test_the_ceiling_for_collusion_is_held_before_anything_is_spent, (3.0,)),
        Check(shared.test_collusion_cuts_a_plan_where_its_ceiling_is_reached, (4.5,)),
    ),
    mutant(
        rooms.the_noise_of_all_counted_as_a_sites_own,
        Check(shared.test_both_ceilings_hold_each_by_its_own_noise),
    ),
    mutant(
        rooms.numbers_that_leave_without_masks,
        Check(test_masking.test_what_leaves_is_masked),
    ),
)


def table() -> list[str]:
    """Return the table of README.md, line by line: mutant, tests that kill it."""
    lines = ["| mutant | killed by |", "|---|---|"]
    for one in MUTANTS:
        names = dict.fromkeys(f"`{check.name}`" for check in one.killed_by)
        lines.append(f"| {one.name} | {'<br>'.join(names)} |")
    return lines
