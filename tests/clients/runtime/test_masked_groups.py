"""A site's own process where a round sums in groups: with whom, and what its operator is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.runtime import approval, gate
from clients.runtime.sharing import sharing
from fedlite.audit import audit
from fedlite.deployment import bundle as bundles
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import ApprovedBundle, SitePolicy, load
from fedlite.privacy import accounting
from fedlite.privacy.ledger import read
from fedlite.protection import sharing_of
from fedlite.reporting import wording
from fedlite.secure.collector import Collector, finish_all
from fedlite.secure.group import Group, split
from fedlite.secure.messages import Step
from tests.clients.runtime.hospitals import MODEL, Hospitals, init, scenario
from tests.clients.runtime.test_sharing import bundle

EIGHT = tuple(f"clinic-{at}" for at in range(8))


@pytest.fixture
def eight(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path, EIGHT, groups=2)


def divided(eight: Hospitals, **change: int) -> Group:
    seed = eight.plan.federation.seed
    return replace(eight.group(), **({"parts": 2, "seed": seed} | change))


@pytest.mark.long
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
        assert plan["split"] == f"{eight.plan.federation.seed:016x}"
    assert not audit([site.home / "ledgers" for site in eight.sites.values()]).findings


@pytest.mark.long
@pytest.mark.parametrize("change", [{"seed": 2}, {"parts": 1, "seed": 0}])
def test_a_group_that_is_divided_otherwise_is_refused_before_anything_is_spent(
    eight: Hospitals, change: dict[str, int]
) -> None:
    group = divided(eight, **change)
    for site in eight.sites.values():
        with pytest.raises(Decline, match=r"^split: must be divided into 2 by the seed 1 "):
            site.ask(Step.JOIN, group.encode())
        assert site.rows == []


@pytest.mark.long
def test_the_operator_sees_how_few_of_one_group_may_be_honest(eight: Hospitals) -> None:
    home = eight.sites[EIGHT[0]].home
    facts, refused = sharing(home, load(home / "site.toml"), eight.plan)
    told = dict(facts)
    assert not refused
    assert told["taken for honest"].endswith("each sum is of at least 3")
    assert told["groups"] == (
        "2 of 4 in each round, with a sum each, drawn by the seed 1, which nobody can change after "
        "approval; the figures below hold whoever is with whom, as if all that may be dishonest "
        "were in one group, of whose 4 are 3 honest then"
    )


@pytest.mark.long
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


def test_neither_groups_nor_the_seed_that_divides_them_are_loosened(tmp_path: Path) -> None:
    """The run could choose the number that is worst for `alone`, and who is with whom."""
    keys = {name: f"{at:064x}" for at, name in enumerate(EIGHT)}
    content = bundle(keys, groups=1)
    read_back = bundles.read(content)
    loose = {"privacy.groups": 2, "federation.seed": 1_000_000}
    for key, most in loose.items():
        with pytest.raises(ValueError, match=f"--at-most {key}={most}: .* stays as it is"):
            approval.loosened(read_back, [f"{key}={most}"])
    # Also where an older fedlite has let it be approved.
    known = ApprovedBundle(read_back.sha256, settings=read_back.settings, at_most=loose)
    policy = SitePolicy(bundles=(known,))
    run = {"run.id": "0" * 16}
    assert gate.check(policy, content, run).config["privacy.groups"] == 1
    for key, other in [*loose.items(), ("federation.seed", 0)]:
        with pytest.raises(gate.NotApproved, match=f"^{key}: must be the approved 1, got {other}"):
            gate.check(policy, content, run | {key: other})
