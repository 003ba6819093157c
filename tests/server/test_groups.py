"""Rounds in groups by real messages: a rule over their sums, and groups that fail.

Covers strategies/over_groups.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.audit import audit
from fedlite.compression import Decoded
from fedlite.messages import site_id
from fedlite.parameters import Vector
from fedlite.privacy.ledger import read
from fedlite.privacy.shared.summed import residues, values
from fedlite.scenario import Scenario
from fedlite.secure.group import Group, split
from fedlite.secure.member import Member
from fedlite.secure.messages import Step
from fedlite.training import Learner
from server import attendance, checkpoint
from server.rounds import RunFailed
from server.summary import shared_of
from strategies import ServerState, over_groups
from strategies.gathered import Gathered
from strategies.over_groups import make_over, needed
from tests.server import test_sums
from tests.server.test_sums import flat, model, play

SITES, GROUPS, ROUNDS = 9, 3, 2
NAMES = tuple(f"site-{at:02d}" for at in range(1, SITES + 1))


def scenario(
    seed: int = 3,
    *,
    strategy: str = "median",
    options: str = "",
    sites: int = SITES,
    quorum: int = 0,
    **privacy: Any,
) -> Scenario:
    federation = {
        "rounds": ROUNDS,
        "sites": sites,
        "quorum": quorum or sites,
        "strategy": strategy,
        "strategy_options": options,
    }
    shared = {"honest": sites - 1, "groups": GROUPS} | privacy
    return test_sums.scenario(seed, federation=federation, privacy=shared)


def members(directory: Path, number: int) -> list[list[int]]:
    """Return who was with whom in a round, from the group that the server has made."""
    whole = Group.decode((directory / "checkpoint" / "group").read_bytes())
    return [[NAMES.index(name) for name in part.names] for part in split(whole, number)]


def plainly(
    given: Scenario, groups: dict[int, list[list[int]]], void: frozenset[int] = frozenset()
) -> Vector:
    """Return the model of the same run, whose sites hand their parts in openly, to these groups."""
    plan, _, sites = plans.simulated(given)
    mechanism = plan.shared
    assert mechanism is not None
    learners = [Learner(plan, site.train) for site in sites]
    momentum, current = np.zeros(plan.layout.size, np.float32), plan.initial
    for number in range(1, ROUNDS + 1):
        if number in void:
            continue
        steps = []
        for part in groups[number]:
            units = [
                learners[at].units(current, number, site_id(NAMES[at]), mechanism) for at in part
            ]
            total = values(residues(np.sum(units, axis=0), mechanism.bits), mechanism)
            support, dense = plan.support(number), np.zeros(plan.layout.size)
            rate = -plan.learning_rate(number) / (3 * mechanism.expected_batch)
            dense[support.indices] = total * support.factors * rate
            steps.append(dense.astype(np.float32))
        rule = np.median if given.federation.strategy == "median" else np.mean
        momentum = np.float32(0.5) * momentum + rule(np.stack(steps), axis=0).astype(np.float32)
        current = current + momentum
    return flat(plan, current)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["median", "fedavg"])
def test_the_model_is_that_of_the_rule_over_plain_sums_of_groups(
    tmp_path: Path, strategy: str
) -> None:
    given = scenario(strategy=strategy)
    records = play(tmp_path, given)
    assert [r.accepted for r in records] == [SITES, SITES]
    groups = {number: members(tmp_path, number) for number in (1, 2)}
    assert groups[1] != groups[2] and all(len(part) == 3 for part in groups[1])
    np.testing.assert_allclose(model(tmp_path), plainly(given, groups), rtol=2e-5, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("step", [None, Step.SIGN, Step.OPEN])
def test_a_group_that_fails_releases_nothing_and_the_others_make_the_round(
    tmp_path: Path, step: Step | None
) -> None:
    """A mean is content with two of three."""
    given = scenario(strategy="fedavg")
    records = play(tmp_path, given, [(2, step, 4)])
    groups = {number: members(tmp_path, number) for number in (1, 2)}
    assert [r.accepted for r in records] == [SITES, SITES - 3]
    assert set(records[1].dropped) | set(records[1].missing) == {NAMES[4]}, (
        "nobody else is to blame"
    )
    groups[2] = [part for part in groups[2] if 4 not in part]
    np.testing.assert_allclose(model(tmp_path), plainly(given, groups), rtol=2e-5, atol=1e-7)


@pytest.mark.long
def test_a_round_that_leaves_the_rule_too_few_groups_is_void(tmp_path: Path) -> None:
    given = scenario()
    records = play(tmp_path, given, [(2, Step.SIGN, 4)])
    assert [r.accepted for r in records] == [SITES, 0], "a median wants three"
    groups = {1: members(tmp_path, 1)}
    wanted = plainly(given, groups, void=frozenset({2}))
    np.testing.assert_allclose(model(tmp_path), wanted, rtol=2e-5, atol=1e-7)
    lost = [(number, None, site) for number in (1, 2) for site in range(SITES)]
    with pytest.raises(RunFailed):
        play(tmp_path / "none", given, lost)


@pytest.mark.long
def test_who_may_be_missing_in_a_group_costs_no_other_group_anything(tmp_path: Path) -> None:
    """Twelve in three groups of four, one of which may lack one: five sums' worth of thresholds."""
    given = scenario(strategy="fedavg", sites=12, quorum=11, honest=12)
    plan = plans.simulated(given)[0]
    assert plan.shared is not None and plan.shared.summed == (4, 3, 4)
    assert plan.shared.carried == 3
    records = play(tmp_path, given, [(1, None, 3), (2, Step.SIGN, 5), (2, None, 7)])
    assert records[0].accepted == 11
    whole = Group.decode((tmp_path / "checkpoint" / "group").read_bytes())
    names = whole.names
    together = any({names[5], names[7]} <= {*part.names} for part in split(whole, 2))
    assert records[1].accepted == (8 if together else 11)


@pytest.mark.long
def test_a_claimed_run_commits_to_its_groups_and_the_audit_computes_them_anew(
    tmp_path: Path,
) -> None:
    given = scenario(seed=-1)
    records = play(tmp_path, given)
    assert [r.accepted for r in records] == [SITES, SITES]
    summary = json.loads((tmp_path / "summary.json").read_text())
    shared = summary["privacy"]["shared"]
    assert (shared["groups"], shared["noise_of"], shared["honest"]) == (GROUPS, 2, SITES - 1)
    assert list(shared["epsilon"]) == ["7", "8", "9"]
    assert shared["epsilon"]["8"] == pytest.approx(3.0, abs=0.01) and shared["alone"] > 4
    ledger = next(tmp_path.glob("sites/homes/site-01/ledgers/*.jsonl"))
    assert read(ledger)[0].body["plan"]["groups"] == GROUPS
    sources = [tmp_path, *tmp_path.glob("sites/homes/*/ledgers")]
    assert audit(sources).clean
    # Said afterwards to have been one sum, whose table looks better.
    plan = plans.simulated(given)[0].shared
    assert plan is not None
    rosy = shared_of(replace(plan, groups=1), 1e-5)["shared"]
    changed = {**summary, "privacy": {**summary["privacy"], "shared": rosy}}
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    told = {issue.text for issue in audit(sources).findings}
    assert any(f"shared.groups None, committed {GROUPS}" in text for text in told), told
    assert any("shared.noise_of 8, and by the plan it is 2" in text for text in told)


@pytest.mark.parametrize(
    ("strategy", "options", "groups", "sites", "enough"),
    [
        ("median", "", 3, 9, 3),
        ("median", "", 5, 15, 3),
        ("trimmed-mean", "", 5, 15, 3),
        ("trimmed-mean", '{"attackers": 0.4}', 5, 15, 5),
        ("multi-krum", "", 5, 15, 5),
        ("fedavg", "", 4, 12, 3),
        ("fedavg", "", 1, 12, 1),
    ],
)
def test_a_rule_over_groups_counts_groups(
    strategy: str, options: str, groups: int, sites: int, enough: int
) -> None:
    rule = make_over(scenario(strategy=strategy, options=options, sites=sites, groups=groups))
    assert needed(rule, groups) == enough
    if groups > 1:
        assert rule.settings.participants == rule.settings.sites == groups
    rule.start(1)
    for value in [*range(groups - 1), 900]:
        rule.add(Decoded(1, None, np.array([value], np.float32)), 0)
    after = rule.finish(ServerState.initial(np.zeros(1, np.float32)), 1).model[0]
    assert (after < groups) == (strategy != "fedavg")


@pytest.mark.parametrize(
    ("strategy", "least"), [("median", 3), ("krum", 5), ("trimmed-mean", 3), ("norm-bound", 3)]
)
def test_fewer_groups_than_a_rule_needs_are_refused_by_their_own_name(
    strategy: str, least: int
) -> None:
    given = scenario(strategy=strategy, sites=10, groups=2)
    with pytest.raises(ValueError, match=rf"^privacy\.groups: must be at least {least} with"):
        make_over(given)


def test_a_rule_is_told_whole_whatever_its_words_and_another_error_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(Gathered):
        def combine(self, updates: Sequence[Decoded]) -> Vector:
            return updates[0].dense()

    rule = "two, got from one site, must be told apart"
    monkeypatch.setattr(
        over_groups, "make", lambda asked, mean: Mine(asked, mean, least=4, rule=rule)
    )
    with pytest.raises(ValueError, match=r"^privacy\.groups: ") as told:
        make_over(scenario(strategy="median"))
    assert str(told.value) == (
        f"privacy.groups: must be at least 4 with median (rule: {rule}), got {GROUPS}; take more "
        "groups, with more sites"
    )
    own = "federation.quorum: must be at least what this strategy likes"
    monkeypatch.setattr(over_groups, "make", Mock(side_effect=ValueError(own)))
    with pytest.raises(ValueError, match=f"^{own}$"):
        make_over(scenario(strategy="median"))


def longer(given: Scenario, rounds: int) -> Scenario:
    return replace(given, federation=replace(given.federation, rounds=rounds))


def asked(directory: Path) -> dict[str, int]:
    """Return in how many rounds each site was asked to train."""
    point = checkpoint.load(directory / "checkpoint")
    assert point is not None
    return {name: point.sites[name].asked if name in point.sites else 0 for name in NAMES}


@pytest.mark.long
def test_a_site_at_rest_does_not_cost_the_others_of_its_group_their_round(tmp_path: Path) -> None:
    """No group of three can do without it; of four of whom three make a sum, it rests."""
    given = longer(scenario(strategy="fedavg"), 4)
    lost = [(number, None, 4) for number in (1, 2, 3)]
    records = play(tmp_path, given, lost)
    assert [(r.accepted, r.missing) for r in records[:3]] == [(SITES - 3, [NAMES[4]])] * 3
    assert (records[3].accepted, records[3].out) == (SITES, {})

    given = longer(scenario(strategy="fedavg", sites=12, quorum=11, honest=12), 4)
    record = play(tmp_path / "more", given, lost)[3]
    assert (record.accepted, record.out) == (11, {NAMES[4]: "resting"})


def test_nobody_is_asked_in_a_group_that_cannot_be_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would reserve a round, and nothing would come of it."""
    monkeypatch.setattr(attendance, "unwilling", lambda *_: ({NAMES[4]: "spent"}, {}))
    records = play(tmp_path, scenario(strategy="fedavg"))
    times = dict.fromkeys(NAMES, ROUNDS)
    for record in records:
        mine = next(part for part in members(tmp_path, record.round) if 4 in part)
        assert record.out == {NAMES[at]: "spent" if at == 4 else "group" for at in mine}
        assert record.accepted == SITES - 3 and not record.missing and not record.dropped
        for at in mine:
            times[NAMES[at]] -= 1
    assert asked(tmp_path) == times
    # A median of two groups is none: then nobody pays for the round.
    with pytest.raises(RunFailed):
        play(tmp_path / "none", scenario())
    assert set(asked(tmp_path / "none").values()) == {0}


@pytest.mark.parametrize("step", ["_sign", "_open"])
def test_who_tells_what_is_false_is_struck_for_the_group_that_it_voids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(Member, step)

    def told(self: Member, *given: Any) -> bytes:
        found: bytes = real(self, *given)
        return bytes(len(found)) if self.name == NAMES[4] else found

    monkeypatch.setattr(Member, step, told)
    records = play(tmp_path, scenario(strategy="fedavg"))
    for record in records:
        assert (record.accepted, record.missing) == (SITES - 3, [])
        assert record.dropped == {NAMES[4]: "bad-update"}, "nobody else is to blame"
    point = checkpoint.load(tmp_path / "checkpoint")
    assert point is not None and point.sites[NAMES[4]].strikes == ROUNDS
