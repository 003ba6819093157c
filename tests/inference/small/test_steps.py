"""Each step that makes a tail smaller, against networks of which what can go is known.

Covers fedlite/inference/small/chain.py, fedlite/inference/small/narrowing.py,
fedlite/inference/small/lowrank.py, fedlite/inference/small/teaching.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedlite.inference.small.lowrank import thinned
from fedlite.inference.small.narrowing import narrowed
from fedlite.inference.small.teaching import taught
from fedlite.models import Branched, build


def network(**options: int) -> Branched:
    model = build("vgg", (1, 12, 12), 4, seed=3, stem=4, **(options or {"tail": 8}))
    assert isinstance(model, Branched)
    return model.eval()


def hidden(model: Branched, count: int = 200) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.stem(model.made_up(count))
    return found


def same(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_channels_that_nothing_makes_go_and_the_answers_stay() -> None:
    model = network()
    layers = [one for one in model.tail if isinstance(one, nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            # Every second one is dead, and so weighs nothing.
            layer.weight[::2] = 0
            layer.bias[::2] = 0
    before = [one.clone() for one in model.parameters()]
    small = narrowed(model, 0.5)
    x = hidden(model)
    torch.testing.assert_close(small.tail(x), model.tail(x))
    assert [one.out_channels for one in small.tail if isinstance(one, nn.Conv2d)] == [4, 4, 4]
    assert small.costs()["tail"]["macs"] < 0.4 * model.costs()["tail"]["macs"]
    assert all(map(torch.equal, model.parameters(), before))
    same(small.stem, model.stem)


def test_channels_stay_where_a_norm_mixes_them_and_one_stays_anyway() -> None:
    normed = build("cnn", (1, 12, 12), 4, seed=0)
    assert isinstance(normed, Branched)
    same(narrowed(normed, 0.75), normed)
    least = narrowed(network(), 0.99)
    assert [one.out_channels for one in least.tail if isinstance(one, nn.Conv2d)] == [1, 1, 1]
    assert torch.isfinite(least.tail(hidden(least))).all()
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share: must be from 0 to below 1"):
            narrowed(network(), share)


@pytest.mark.parametrize(
    "tail",
    [
        # Over the last axis, not over channels.
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 6), nn.Flatten()),
        nn.Sequential(nn.Conv2d(1, 6, 3, padding="same"), nn.Conv2d(6, 6, 3, groups=2)),
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular"), nn.Softmax(1)),
    ],
)
def test_what_is_not_understood_is_left_as_it_is(tail: nn.Sequential) -> None:
    model = Branched(nn.Identity(), nn.Flatten(), tail, shape=(1, 6, 6), classes=4)
    x = model.made_up(50)
    same(narrowed(model, 0.5), model)
    if not isinstance(tail[1], nn.Linear):
        same(thinned(model, x, 0.5), model)


def test_a_layer_of_low_rank_becomes_two_and_answers_the_same() -> None:
    model = network(tail=12)
    second = [one for one in model.tail if isinstance(one, nn.Conv2d)][1]
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        left, right = (torch.randn(size, generator=drawn) for size in ((12, 2), (2, 108)))
        second.weight.copy_(0.1 * (left @ right).reshape(12, 12, 3, 3))
    x = hidden(model)
    small = thinned(model, x, 1e-9)
    torch.testing.assert_close(small.tail(x), model.tail(x), atol=1e-3, rtol=1e-3)
    pairs = [one for one in small.tail if isinstance(one, nn.Sequential)]
    assert 2 in [one[0].out_channels for one in pairs if isinstance(one[0], nn.Conv2d)]


@pytest.mark.parametrize("error", [0.02, 0.2])
def test_no_more_of_a_layers_output_is_lost_than_was_allowed(error: float) -> None:
    torch.manual_seed(0)
    stem, tail = nn.Flatten(), nn.Sequential(nn.Linear(30, 20))
    model = Branched(stem, nn.Linear(30, 20), tail, shape=(30,), classes=20)
    x = model.made_up(500) @ torch.diag(torch.logspace(-3, 0.3, 30))
    small = thinned(model, x, error)
    assert isinstance(small.tail[0], nn.Sequential)
    rank = small.tail[0][0].out_features
    weight = model.tail[0].weight.detach()
    wanted = x @ weight.T
    lost = (small.tail[0](x) - model.tail[0].bias - wanted).square().sum() / wanted.square().sum()
    assert lost <= 1.01 * error
    # A rank less would lose more, by whatever two matrices: Eckart and Young of the outputs.
    sizes = torch.linalg.svdvals(wanted.double()).square()
    assert sizes[rank:].sum() / sizes.sum() <= error < sizes[rank - 1 :].sum() / sizes.sum()
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="error: must be from 0 to 1"):
            thinned(model, x, wrong)


def test_a_taught_tail_answers_more_like_its_teacher_and_the_stem_stays() -> None:
    teacher = network()
    x, answers = hidden(teacher), None
    with torch.no_grad():
        answers = 3 * teacher.tail(x)
    student = narrowed(teacher, 0.5)

    def apart(model: Branched) -> float:
        with torch.no_grad():
            shares = [torch.log_softmax(one / 2, 1) for one in (model.tail(x), answers)]
        return float(nn.functional.kl_div(*shares, reduction="batchmean", log_target=True))

    one = taught(student, x, answers, steps=60, seed=1, rate=3e-3)
    again = taught(student, x, answers, steps=60, seed=1, rate=3e-3)
    assert apart(one) < 0.5 * apart(student)
    same(one, again)
    same(one.stem, teacher.stem)
    none = taught(student, x, answers, steps=0, seed=1)
    assert apart(none) == apart(student)
    with pytest.raises(ValueError, match="steps: must be 0 or more"):
        taught(student, x, answers, steps=-1, seed=1)


def test_a_tail_that_is_no_sequence_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model = Branched(nn.Flatten(), nn.Linear(4, 4), Odd(), shape=(4,), classes=4)
    with pytest.raises(ValueError, match=r"tail: must be a torch\.nn\.Sequential"):
        narrowed(model, 0.5)
