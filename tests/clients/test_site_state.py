"""What a site keeps between rounds belongs to one run, one plan and the same records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.state import load
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import SitePolicy
from fedlite.guard.policy_file import write
from fedlite.messages import Code
from tests.clients.stub import (
    PowerCut,
    StubLearner,
    changed,
    invite,
    private,
    refused,
    scenario,
    spent,
    stub,
)


def test_what_a_clear_round_left_over_never_enters_a_private_update(tmp_path: Path) -> None:
    """A server that reuses a run's id cannot have the clear delta sent as a private one."""
    base = StubLearner.initial
    clear = changed(private(tmp_path, steps=1), stub(scenario()))
    assert clear.guardian.home is not None
    write(clear.guardian.home.path / "site.toml", SitePolicy(site="site-01", units=("none",)))
    clear.take_part(invite(1, base))
    (left,) = clear.learner.deltas  # type: ignore[attr-defined]
    write(clear.guardian.home.path / "site.toml", SitePolicy(site="site-01", epsilon=90.0))
    member = private(tmp_path, steps=1)
    member.take_part(invite(2, base))
    state = load(member.path)
    assert state is not None and state.pending is not None
    (noised,) = member.learner.deltas  # type: ignore[attr-defined]
    np.testing.assert_array_equal(state.pending.unsent, noised)
    assert not np.allclose(state.pending.unsent, noised + left)


def test_other_records_may_not_go_on_with_a_run(tmp_path: Path) -> None:
    base, other = StubLearner.initial, "cd" * 32
    before = private(tmp_path, steps=1)
    before.take_part(invite(1, base))
    kept = before.path.read_bytes()
    member = replace(private(tmp_path, steps=1), commitment=other)
    # Neither the next round nor the same one again: the frame that is kept is of other records.
    for number in (2, 1):
        with pytest.raises(Decline, match=r"not those that this run began with") as e:
            member.take_part(invite(number, base))
        assert e.value.code is Code.DATA
    assert member.path.read_bytes() == kept and spent(member) == (1, 1)
    assert private(tmp_path, steps=1).take_part(invite(2, base, acknowledged=1))


@pytest.mark.parametrize("is_private", [False, True])
def test_a_crash_in_the_first_training_pins_the_records_too(
    tmp_path: Path, is_private: bool
) -> None:
    base = StubLearner.initial
    member = private(tmp_path, steps=1)
    if not is_private:
        member = changed(member, stub(scenario()), home=None)
    member.learner.failing = True  # type: ignore[attr-defined]
    with pytest.raises(PowerCut):
        member.take_part(invite(1, base))
    member.learner.failing = False  # type: ignore[attr-defined]
    assert refused(replace(member, commitment="cd" * 32), invite(1, base)) is Code.DATA
    assert not member.learner.deltas  # type: ignore[attr-defined]
    assert member.take_part(invite(1, base))


def test_another_plan_begins_without_a_residual(tmp_path: Path) -> None:
    base = StubLearner.initial
    private(tmp_path, steps=1).take_part(invite(1, base))
    member = private(tmp_path, steps=1)
    tighter = scenario(
        federation={"rounds": 4},
        training={"steps": 1},
        privacy={"unit": "record", "epsilon": 90.0, "expected_batch": 1},
        uplink={"density": 0.06},
    )
    member = replace(member, plan=replace(member.plan, scenario=tighter))
    member.take_part(invite(2, base))
    state = load(member.path)
    assert state is not None and state.pending is not None
    np.testing.assert_array_equal(
        state.pending.unsent,
        member.learner.deltas[0],  # type: ignore[attr-defined]
    )
