"""Networks that pool are trained with their channels side by side, and learn the same.

Covers fedlite/training/channels.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.registry.names import name_of
from fedlite.scenario import from_dict
from fedlite.training import Learner, channels
from fedlite.training.share import Asked
from fedlite.training.together import Together

SHAPE = (3, 16, 16)


def pooled(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(72, classes),
    )


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3), nn.GroupNorm(2, 8), *pooled((8,), classes))


class Viewed(nn.Module):
    """Looks at values by how they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 6, 3), nn.MaxPool2d(2)
        self.head = nn.Linear(6 * 49, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.pool(self.conv(x)).view(len(x), -1))
        return found


class Ordered(Viewed):
    """Takes values in the order in which they lie, which is another then."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.conv(x))
        flat = torch.as_strided(y, (len(x), 6 * 49), (6 * 49, 1))
        found: Tensor = self.head(flat)
        return found


class Ends(nn.Module):
    """Pools, and answers by `tail`."""

    def __init__(self, tail: Callable[[Ends, Tensor], Any], zero: bool = False) -> None:
        super().__init__()
        self.conv, self.pool, self._tail = nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), tail
        self.head = nn.Linear(6 * 49, 5)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Any:
        return self._tail(self, self.pool(self.conv(x)))


def strided(model: Ends, y: Tensor) -> Tensor:
    """Reads values by how they lie, in training only."""
    flat = torch.as_strided(y, (len(y), 294), (294, 1)) if model.training else y.flatten(1)
    found: Tensor = model.head(flat)
    return found


def masked(model: Ends, y: Tensor) -> Tensor:
    """A mask over what lies in one piece, in training only."""
    flat = y.view(len(y), -1) if model.training else y.flatten(1)
    found: Tensor = model.head(flat)
    return found


def untaught(model: Ends, y: Tensor) -> Tensor:
    """Has no gradient when it is used."""
    with torch.set_grad_enabled(model.training):
        found: Tensor = model.head(torch.as_strided(y, (len(y), 294), (294, 1)))
        return found


def listed(model: Ends, y: Tensor) -> Any:
    """Answers something else when it is used."""
    found: Tensor = model.head(y.flatten(1))
    return found if model.training else found.tolist()


def noisy(model: Ends, y: Tensor) -> Tensor:
    """Draws in the order in which values lie."""
    found: Tensor = model.head((y + torch.randn_like(y) * model.training).flatten(1))
    return found


def replaced() -> nn.Module:
    """A convolution whose forward is another's, on the instance."""
    model = pooled(SHAPE, 5)
    layer = model[0]
    assert isinstance(layer, nn.Conv2d)
    plain = layer.forward
    layer.forward = lambda x: plain(x) * 0.5 if layer.training else plain(x)  # type: ignore
    return model


class Own(nn.Conv2d):
    """A convolution of somebody's own, which may be anything."""


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 5)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("build", [pooled, normed])
def test_answers_and_gradients_are_the_same(build: Callable[..., nn.Module]) -> None:
    torch.manual_seed(1)
    model, x = build(SHAPE, 5), torch.rand(9, *SHAPE)
    truth = gradients(copy.deepcopy(model).double(), x.double())
    plain = gradients(model, x)
    with channels.last(model):
        seen = model[0](x)
        assert seen.is_contiguous(memory_format=torch.channels_last) and not seen.is_contiguous()
        found = gradients(model, x)
    assert model[0](x).is_contiguous()
    for a, b, c in zip(truth, plain, found, strict=True):
        # As close to what is exact as the plain way is.
        for each in (b, c):
            torch.testing.assert_close(each.double(), a, rtol=1e-4, atol=1e-5)
    assert channels.fits(model, x[:2])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten()), "it does not pool"),
        (Viewed(), "view"),
        (Ordered(), "other answers"),
        (Ends(strided), "as they lie, in training"),
        (Ends(strided, zero=True), "a head that begins at zero"),
        (Ends(masked), "view, in training"),
        (Ends(untaught), "no gradient when it is used"),
        (Ends(listed), "no tensor when it is used"),
        (Ends(noisy), "drawn as they lie"),
        (replaced(), "a forward of one's own"),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6), nn.MaxPool2d(2)), "slower"),
        (nn.Sequential(Own(3, 6, 3), nn.MaxPool2d(2), nn.Flatten()), "a layer of one's own"),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.MaxPool2d(2), nn.Flatten()), "groups"),
        (nn.Sequential(nn.Conv2d(3, 640, 17), nn.AvgPool2d(1), nn.Flatten()), "too many values"),
    ],
    ids=lambda one: one.replace(" ", "-") if isinstance(one, str) else None,
)
def test_a_model_that_cannot_or_need_not_is_computed_as_ever(model: nn.Module, why: str) -> None:
    x = torch.rand(2, 3, 18, 18) if why == "too many values" else torch.rand(2, *SHAPE)
    assert not channels.fits(model, x), why
    own = [part for part in model.modules() if "forward" in vars(part)]
    assert len(own) == (why == "a forward of one's own")


def test_the_trial_neither_draws_nor_remembers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Flatten()
    )
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert channels.fits(model, torch.rand(2, *SHAPE, generator=torch.Generator()))
    assert model.training and torch.equal(torch.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_that_draws_whatever_it_is_told_changes_no_draw_of_training() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 6, 3), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.pool(self.conv(x)).flatten(1), 0.5, training=True)

    model = Draws()
    drawn = torch.get_rng_state()
    channels.fits(model, torch.rand(2, *SHAPE, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_forward_of_ones_own_is_put_back_and_contexts_may_lie_in_each_other() -> None:
    model = replaced()
    layer = model[0]
    assert isinstance(layer, nn.Conv2d)
    own = layer.forward
    with pytest.raises(RuntimeError, match="inside"), channels.last(model):
        with channels.last(model):
            assert layer.forward is not own
        assert layer.forward is not own
        raise RuntimeError("inside")
    assert layer.forward is own and "forward" not in vars(model[3])


def planned(**tables: Any) -> plans.Plan:
    given = {
        "federation": {"rounds": 9, "sites": 5},
        "model": {"name": name_of(pooled)},
        "training": {"batch_size": 4, "device": "cpu", "steps": 3},
    }
    return plans.of(from_dict(given | tables), SHAPE, 5)


def learners(plan: plans.Plan) -> list[Learner]:
    rng = np.random.default_rng(1)
    return [
        Learner(plan, Dataset(rng.random((n, *SHAPE), np.float32), rng.integers(0, 5, n)))
        for n in (9, 4, 7)
    ]


def test_sites_train_so_together_as_alone_and_learn_what_they_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bool] = []
    real = nn.Conv2d._conv_forward

    def noted(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = real(self, x, weight, bias)
        calls.append(found.is_contiguous(memory_format=torch.channels_last))
        return found

    plan = planned()
    sites = [
        Asked(learner, plan.first, 1, site, None, {}) for site, learner in enumerate(learners(plan))
    ]
    group = Together(plan)
    assert all(group._fits(one) for one in sites), group.why
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", noted)
    truth = [one.alone().delta for one in sites]
    assert calls and all(calls)
    calls.clear()
    for share, delta in zip(group._many(sites), truth, strict=True):
        assert not isinstance(share, Exception), share
        np.testing.assert_array_equal(share.delta, delta)
    assert calls and all(calls)
    # The same but for rounding as without.
    monkeypatch.setattr(channels, "fits", lambda *given: False)
    plain = [
        Asked(learner, plan.first, 1, site, None, {}).alone().delta
        for site, learner in enumerate(learners(plan))
    ]
    for one, other in zip(truth, plain, strict=True):
        assert not np.array_equal(one, other)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_protected_records_are_computed_as_ever() -> None:
    """Their convolutions are products of their own, which are tried to the bit."""
    privacy = {"unit": "record", "epsilon": 8.0, "expected_batch": 4, "simulate_seed": 3}
    learner = learners(planned(privacy=privacy))[0]
    assert not learner.bench._last and learners(planned())[0].bench._last
