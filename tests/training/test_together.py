"""Sites that are trained together get what each gets alone, to the bit, or are trained alone.

Covers fedlite/training/together.py, fedlite/training/many.py, fedlite/training/noised.py,
fedlite/training/stacked.py.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.objectives.fedprox import FedProx
from fedlite.plan import Plan
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.noise import Stream
from fedlite.registry.names import name_of
from fedlite.scenario import from_dict
from fedlite.training import Learner, Share, many, together
from fedlite.training.objective import Decay
from fedlite.training.share import Asked
from fedlite.training.together import Together

SIZES = (23, 8, 1, 0, 9, 16, 23)
PRIVATE = {
    "unit": "record",
    "epsilon": 8.0,
    "expected_batch": 4,
    "simulate_seed": 3,
}
# As for the plan above, but that it samples: to find the noise for that takes longer than the rest.
SAMPLED = RecordMechanism(
    clip=0.5, noise_multiplier=2.0, sampling_rate=0.1, steps=27, expected_batch=4
)


def conv(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.GroupNorm(1, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 5),
        nn.ReLU(),
        nn.Linear(5, classes),
    )


def planned(model: str = "mlp", **tables: dict[str, Any]) -> Plan:
    training = {"batch_size": 8, "device": "cpu"} | tables.pop("training", {})
    private = {"steps": 3} if tables.get("privacy", {}).get("unit") == "record" else {}
    given = {"federation": {"rounds": 9, "sites": 7}, "model": {"name": model}, **tables}
    return plans.of(from_dict(given | {"training": training | private}), (1, 8, 8), 10)


def asked(plan: Plan, sizes: tuple[int, ...] = SIZES, number: int = 2) -> list[Asked]:
    mechanism = SAMPLED if plan.scenario.privacy.unit == "record" else plan.mechanism
    rng = np.random.default_rng(1)
    received = plan.first + np.float32(0.1) * rng.normal(size=plan.first.size).astype(np.float32)
    found = []
    for site, n in enumerate(sizes):
        records = Dataset(rng.random((n, 1, 8, 8), np.float32), rng.integers(0, 10, n))
        found.append(Asked(Learner(plan, records), received, number, 70 + site, mechanism, {}))
    return found


def check_same(shares: list[Share | Exception], truth: list[Share]) -> None:
    for site, (share, alone) in enumerate(zip(shares, truth, strict=True)):
        assert isinstance(share, Share), share
        np.testing.assert_array_equal(share.delta, alone.delta, err_msg=f"site {site}")
        assert share.delta.dtype == np.float32
        assert share.kept.keys() == alone.kept.keys()
        for name, value in alone.kept.items():
            np.testing.assert_array_equal(share.kept[name], value, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "tables"),
    [
        ("mlp", {}),
        ("mlp", {"training": {"epochs": 2, "momentum": 0.9, "clip_norm": 0.05}}),
        ("mlp", {"training": {"steps": 5, "weight_decay": 0.1, "objective": "fedprox"}}),
        ("mlp", {"training": {"objective": "scaffold"}}),
        ("mlp", {"privacy": {"unit": "client", "noise_at": "site", "simulate_seed": 1}}),
        (name_of(conv), {}),
        ("cosine", {}),
        ("mlp", {"privacy": PRIVATE}),
        (name_of(conv), {"privacy": PRIVATE}),
        ("cosine", {"privacy": PRIVATE}),
    ],
)
def test_together_is_bit_for_bit_what_each_gets_alone(model: str, tables: dict[str, Any]) -> None:
    plan = planned(model, **tables)
    sites = asked(plan)
    group = Together(plan)
    truth = [one.alone() for one in sites]
    assert all(group._fits(one) for one in sites), group.why
    check_same(group._many(sites), truth)
    # Beside others, and fewer of them.
    check_same(group._many(sites[::-2]), truth[::-2])


def test_terms_come_after_the_noise_together_as_alone() -> None:
    plan = planned(privacy=PRIVATE)
    sites = asked(plan)
    for one in sites:
        learner = one.learner
        learner.objective = replace(learner.objective, terms=(Decay(0.5), FedProx(0.3)))
    plain = [one.alone() for one in asked(plan)]
    truth = [one.alone() for one in sites]
    assert not np.array_equal(truth[0].delta, plain[0].delta)
    check_same(Together(plan)._many(sites), truth)


def test_what_differs_between_sites_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would pass if all sites got the first one's share."""
    shares = [one.alone() for one in asked(planned(), (8, 8))]
    assert not np.array_equal(shares[0].delta, shares[1].delta)
    # Were something added at the first step of a group only, it would be seen.
    step = many._step
    monkeypatch.setattr(
        many, "_step", lambda values, slopes, *rest: step(values, slopes + 1e-6, *rest)
    )
    plan = planned()
    group, sites = Together(plan), asked(plan)
    assert not group._fits(sites[0]) and not group.why
    shares, count = group.shares(sites)
    check_same(shares, [one.alone() for one in sites])
    assert count == 0


class Controlled(nn.Module):
    """Takes another way for some records."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.linear(x.flatten(1))
        return 2 * answers if float(x.mean()) > 0.9 else answers


class Counts(nn.Module):
    """Remembers how many records it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(64, 10), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        answers: Tensor = self.linear(x.flatten(1))
        return answers


class Functional(nn.Module):
    """Uses the values of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.linear.weight, self.linear.bias)


class Mixes(nn.Module):
    """Subtracts the batch's mean: every answer is of all records."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        answers: Tensor = self.linear(x - x.mean(0))
        return answers


def of(module: type[nn.Module]) -> str:
    return name_of(lambda shape, classes: module())


def drops(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


@pytest.mark.parametrize(
    ("model", "tables", "why"),
    [
        (of(Controlled), {}, "several at once"),
        (name_of(drops), {}, "several at once"),
        (of(Counts), {}, "remembers"),
        (name_of(normed), {}, "running statistics"),
        ("mlp", {"training": {"logit_adjustment": True}}, "logit_adjustment"),
        ("mlp", {"training": {"optimizer": "adam"}}, "adam"),
    ],
)
def test_what_cannot_be_trained_together_is_not_and_is_told_once(
    model: str, tables: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedlite.site")
    plan = planned(model, **tables)
    group = Together(plan)
    for number in (1, 2):
        sites = asked(plan, (12, 12), number)
        torch.manual_seed(number)
        truth = [one.alone() for one in asked(plan, (12, 12), number)]
        torch.manual_seed(number)
        if model == name_of(drops):
            # What was tried has drawn nothing.
            assert not group._fits(sites[0])
            torch.manual_seed(number)
        shares, count = group.shares(sites)
        check_same(shares, truth)
        assert count == 0
    assert why in group.why and caplog.text.count(why) == 1


@pytest.mark.parametrize("module", [Functional, Mixes])
def test_a_model_that_would_learn_otherwise_together_is_found_by_the_trial(
    module: type[nn.Module],
) -> None:
    plan = planned(of(module))
    group, sites = Together(plan), asked(plan, (12, 12))
    assert not group._fits(sites[0])
    check_same(group.shares(sites)[0], [one.alone() for one in sites])


def test_the_faster_way_is_taken_and_the_other_one_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedlite.site")
    for slower in ("alone", "together"):
        plan, now = planned(), [0.0]
        monkeypatch.setattr(together.time, "process_time", lambda now=now: now[0])
        train, share = Together._train, Learner.share

        def spend(seconds: float, work: Any, now: list[float] = now) -> Any:
            def spent(*given: Any) -> Any:
                now[0] += seconds
                return work(*given)

            return spent

        together_takes = 1.0 if slower == "alone" else 100.0
        with monkeypatch.context() as patch:
            patch.setattr(Together, "_train", spend(together_takes, train))
            patch.setattr(Learner, "share", spend(1.0, share))
            group, counts = Together(plan), []
            for number in (1, 2, 3, 4):
                sites = asked(plan, (8,) * 7, number)
                shares, count = group.shares(sites)
                check_same(shares, [share(*_given(one)) for one in sites])
                counts.append(count)
        # Three of each group show how long one takes alone, and three groups how long together.
        assert counts == [4, 4, 4, 7 if slower == "alone" else 0]
        assert bool(group.why) == (slower == "together")
    assert caplog.text.count("takes no less time") == 1


def test_the_quickest_of_single_sites_is_not_what_a_site_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, now, seconds = planned(), [0.0], itertools.cycle((0.5, 1.0, 1.5))
    monkeypatch.setattr(together.time, "process_time", lambda: now[0])
    train, share = Together._train, Learner.share

    def at_once(self: Together, works: Sequence[Any], *given: Any) -> Any:
        # Each of them a fifth less than alone, in the mean.
        now[0] += 0.8 * len(works)
        return train(self, works, *given)

    def alone(*given: Any) -> Any:
        now[0] += next(seconds)
        return share(*given)

    monkeypatch.setattr(Together, "_train", at_once)
    monkeypatch.setattr(Learner, "share", alone)
    group = Together(plan)
    counts = [group.shares(asked(plan, (8,) * 7, number))[1] for number in (1, 2, 3, 4)]
    assert counts == [4, 4, 4, 7], group.why


def _given(one: Asked) -> tuple[Any, ...]:
    return one.learner, one.received, one.round, one.site, one.mechanism, one.kept


def test_one_sites_fault_is_its_own() -> None:
    plan = planned()
    sites = asked(plan, (8, 8, 8))
    bad = sites[1].learner
    bad.labels = bad.labels + 100
    found, _ = Together(plan).shares(sites)
    assert isinstance(found[1], Exception)
    good = [sites[0], sites[2]]
    check_same([found[0], found[2]], [one.alone() for one in good])


def test_every_site_draws_its_own_records_and_its_own_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fresh keys: two sites with the same records, in one group, release different sums."""
    plan = planned(privacy=PRIVATE | {"simulate_seed": -1})
    one, other = asked(plan, (16, 16))
    twin = Asked(one.learner, one.received, 2, 71, SAMPLED, {})
    keys, drawn = set(), []
    entropy, sample = dpsgd.entropy, dpsgd.poisson_sample

    def seen(*given: int) -> tuple[Stream, Stream]:
        streams = entropy(*given)
        keys.update(map(id, streams))
        drawn.extend(streams)
        return streams

    taken = []

    def noted(n: int, rate: float, *rest: Any) -> Any:
        rows = sample(n, rate, *rest)
        taken.append((n, rate, tuple(rows)))
        return rows

    group = Together(plan)
    assert group._fits(one)
    monkeypatch.setattr(dpsgd, "entropy", seen)
    monkeypatch.setattr(dpsgd, "poisson_sample", noted)
    shares = group._many([one, twin, other])
    deltas = [share.delta for share in shares if isinstance(share, Share)]
    assert len(deltas) == 3 and not np.array_equal(deltas[0], deltas[1])
    assert len(keys) == 6, "a stream was used for two sites"
    # Three steps a site at the plan's own rate, which is what the ledger was charged for.
    assert [n for n, _, _ in taken] == [16] * 9
    assert {rate for _, rate, _ in taken} == {SAMPLED.sampling_rate}
    assert len({rows for _, _, rows in taken}) > 3


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    plan = planned(privacy=PRIVATE)
    sites = asked(plan, (1, 0, 1, 2))
    group = Together(plan)
    shares = group._many(sites)
    truth = [one.alone() for one in sites]
    check_same(shares, truth)
    assert all(np.count_nonzero(one.delta) > 0.9 * one.delta.size for one in truth)


def test_a_site_with_more_records_than_its_cap_was_priced_for_is_refused_alone() -> None:
    plan = planned(privacy=PRIVATE)
    capped = replace(SAMPLED, max_batch=22, max_records=40)
    sites = [replace(one, mechanism=capped) for one in asked(plan, (20, 41, 20))]
    shares, _ = Together(plan).shares(sites)
    assert isinstance(shares[1], ValueError) and "max_records" in str(shares[1])
    check_same([shares[0], shares[2]], [sites[0].alone(), sites[2].alone()])


def test_how_many_sites_are_handed_over_at_once() -> None:
    def most(rounds: int, sites: int) -> int:
        return together.most(planned(federation={"rounds": rounds, "sites": sites}))

    # The tests' many runs of a few shares need not find out how to be fast.
    assert most(3, 3) == 1 and most(9, 99) == together.MOST
