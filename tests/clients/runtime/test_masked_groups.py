"""A site's own process where a round sums in groups: with whom, and what its operator is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.runtime.sharing import sharing
from fedlite.audit import audit
from fedlite.guard.guardian import Decline, sharing_of
from fedlite.guard.policy import load
from fedlite.privacy import accounting
from fedlite.privacy.ledger import read
from fedlite.reporting import wording
from fedlite.secure.collector import Collector, finish_all
from fedlite.secure.group import Group, split
from fedlite.secure.messages import Step
from tests.clients.runtime.hospitals import MODEL, Hospitals, init, scenario

EIGHT = tuple(f"clinic-{at}" for at in range(8))


@pytest.fixture
def eight(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path, EIGHT, groups=2)


def divided(eight: Hospitals, **change: int) -> Group:
    seed = eight.plan.federation.seed
    return replace(eight.group(), **({"parts": 2, "seed": seed} | change))


def test_each_group_is_summed_by_itself_and_every_ledger_says_so(eight: Hospitals) -> None:
    assert eight.mechanism.summed == (4, 3, 3) and eight.mechanism.carried == 2
    group, values = divided(eight), eight.values()
    eight.join(group)
    made = eight.mechanism
    collectors = [
        Collector(part, 1, MODEL, made.coordinates, made.bits) for part in split(group, 1)
    ]
    lost = collectors[0].group.names[1]
    for one in collectors:
        for name in one.group.names:
            body = eight.sites[name].vector(1, values[name])
            if name != lost:
                one.add(name, body)
    found, failed = finish_all(collectors, eight.exchange({}))
    assert not failed and sorted(len(names) for names, _ in found) == [3, 4]
    for names, total in found:
        expected = np.sum([values[name].astype(np.int64) for name in names], axis=0)
        np.testing.assert_array_equal(total, expected % 2**made.bits)
    for site in eight.sites.values():
        plan = read(site.home / "ledgers" / "digits.jsonl")[0].body["plan"]
        assert (plan["groups"], plan["members"], plan["group"]) == (2, 8, eight.keys)
    assert not audit([site.home / "ledgers" for site in eight.sites.values()]).findings


@pytest.mark.parametrize("change", [{"seed": 2}, {"parts": 1, "seed": 0}])
def test_a_group_that_is_divided_otherwise_is_refused_before_anything_is_spent(
    eight: Hospitals, change: dict[str, int]
) -> None:
    group = divided(eight, **change)
    for site in eight.sites.values():
        with pytest.raises(Decline, match=r"^split: must be divided into 2 by the seed 1 "):
            site.ask(Step.JOIN, group.encode())
        assert site.rows == []


def test_the_operator_sees_how_few_of_one_group_may_be_honest(eight: Hospitals) -> None:
    home = eight.sites[EIGHT[0]].home
    facts, refused = sharing(home, load(home / "site.toml"), eight.plan)
    told = dict(facts)
    assert not refused
    assert told["taken for honest"].endswith("each sum is of at least 3")
    assert told["groups"] == (
        "2 of 4 in each round, with a sum each, drawn by the seed 1 and nothing else; if all that "
        "may be dishonest are in one group, 3 of its 4 are honest"
    )


def test_the_page_says_of_one_fewer_honest_what_is_left_then(tmp_path: Path) -> None:
    """With two that may be missing, and two honest ones left, either can be read alone."""
    init(tmp_path, EIGHT[0])
    home, keys = tmp_path / EIGHT[0], {name: f"{at:064x}" for at, name in enumerate(EIGHT)}
    fewer, alone = "one fewer is", "all others collude with the server"
    for quorum, honest, told in (
        (8, 4, [fewer, alone]),
        (7, 3, [alone]),
        (7, 4, [fewer, alone]),
        (6, 5, [f"{fewer}, or {alone}"]),
        (6, 6, [fewer, alone]),
    ):
        plan = scenario(keys, honest=honest)
        plan = replace(plan, federation=replace(plan.federation, quorum=quorum))
        made = sharing_of(plan)
        assert made is not None
        text = dict(sharing(home, load(home / "site.toml"), plan)[0])["epsilon of this run"]
        table = accounting.table(made, 1e-5)
        losses = [table[honest], *[table[honest - 1]] * (len(told) - 1), table[min(table)]]
        whys = [f"at least {honest} of the 8 are honest", *told]
        assert text == "; ".join(
            f"{wording.epsilon(loss, 3)} if {why}" for loss, why in zip(losses, whys, strict=True)
        ), (quorum, honest)
