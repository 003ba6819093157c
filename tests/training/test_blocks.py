"""Records that are taken in every step are kept, and what is known of them, where that is the same.

Covers fedlite/training/blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.models import build
from fedlite.parameters import load_vector, to_vector
from fedlite.privacy.gradients import ModelGradients
from fedlite.training import blocks as room
from fedlite.training.blocks import Blocks
from fedlite.training.many import Work, begun
from fedlite.training.noised import StackedGradients

Build = Callable[[], nn.Module]
Rows = list[np.ndarray]


class Own(nn.Module):
    """Two heads, of which the second reads what `through` makes of the records."""

    def __init__(self, through: Callable[[Own, Tensor], Tensor], wide: int = 40) -> None:
        super().__init__()
        self.a, self.b, self._through = nn.Linear(40, wide), nn.Linear(wide, 3), through

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.b(self._through(self, x)),)


def detached(model: Own, x: Tensor) -> Tensor:
    """What needs no gradient, and is another in each step."""
    return model.a(x).detach()


def written(model: Own, x: Tensor) -> Tensor:
    """The records themselves, but not as they came."""
    return x.mul_(0.5)


def laid_over(model: Own, x: Tensor) -> Tensor:
    """Into the room of the records comes what depends on the values."""
    x.copy_(model.a(x.clone()).detach())
    return x


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return sum(functional.cross_entropy(o, labels, reduction="none") for o in outputs)  # type: ignore[return-value]


def own(through: Callable[[Own, Tensor], Tensor], wide: int = 40) -> Build:
    return lambda: Own(through, wide)


def house(name: str) -> Build:
    return lambda: build(name, (40,) if name == "linear" else (1, 5, 8), 3, seed=1)


def works(model: nn.Module, sizes: tuple[int, ...], step: int) -> list[Work]:
    prepare = getattr(model, "prepare", lambda x: x)
    found = []
    for site, n in enumerate(sizes):
        rng = np.random.default_rng(site)
        raw = torch.from_numpy(rng.normal(size=(n, 40)).astype(np.float32))
        raw = raw.view(n, *getattr(model, "shape", (40,)))
        values = to_vector(model)
        values = values + np.random.default_rng([step, site]).normal(size=values.size)
        with torch.no_grad():
            inputs = prepare(raw)
        labels = torch.from_numpy(rng.integers(0, 3, n))
        objective = SimpleNamespace(loss=loss)
        found.append(Work(inputs, labels, objective, values.astype(np.float32), 0.1))
    return found


def step(
    model: nn.Module, of: list[Work], rows: Rows, blocks: Blocks, *, keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    with StackedGradients(model, of, begun(of)[0], 32, blocks, keep=keep) as gradients:
        norms = gradients.norms(rows)
        factors = np.where(np.isfinite(norms), 0.5 / np.maximum(norms, 0.5), 0.0)
        return norms, gradients.weighted(factors)


KEPT = {
    "cosine": house("cosine"),
    "linear": house("linear"),
    "mlp": house("mlp"),
    "views": own(lambda model, x: x[:, :24], 24),
    "odd rows": own(lambda model, x: x[:, 3:], 37),
    "both": own(lambda model, x: model.a(x) + x),
}
GATHERED = {
    "written": own(written),
    "laid over": own(laid_over),
}


@pytest.mark.parametrize("case", [*KEPT, "detached", *GATHERED])
def test_records_that_are_kept_give_what_new_ones_give(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {**KEPT, **GATHERED, "detached": own(detached)}[case]
    model, blocks = of(), Blocks()
    # One block, and what is left over in two of them.
    first = works(model, (40, 23, 0, 1), 0)
    rows = [np.arange(len(work.labels)) for work in first]
    taken, real = [], room._taken
    monkeypatch.setattr(room, "_taken", lambda *given: taken.append(1) or real(*given))
    for number in range(3):
        now = works(model, (40, 23, 0, 1), number)
        same = [
            Work(a.inputs, a.labels, b.objective, b.values, b.rate)
            for a, b in zip(first, now, strict=True)
        ]
        taken.clear()
        # A site without records has a stand-in, which is a new one each time.
        three = [0, 1, 3]
        found = step(model, [same[n] for n in three], [rows[n] for n in three], blocks, keep=True)
        new = 0 if number and case not in GATHERED else 4
        assert len(taken) == new
        truth = step(model, [now[n] for n in three], [rows[n] for n in three], Blocks(), keep=False)
        for a, b in zip(found, truth, strict=True):
            np.testing.assert_array_equal(a, b)


def test_other_records_are_not_mistaken_for_those_that_are_kept() -> None:
    model, blocks = build("cosine", (1, 5, 8), 3, seed=1), Blocks()
    one, rows = works(model, (20, 20), 0), [np.arange(20), np.arange(20)]
    step(model, one, rows, blocks, keep=True)
    fewer = [rows[0], np.arange(19)]
    other = [one[1], one[0]]
    copied = [Work(w.inputs.neg(), w.labels, w.objective, w.values, w.rate) for w in one]
    for of, where in ((one, fewer), (other, rows), (copied, rows), (one, rows)):
        found = step(model, of, where, blocks, keep=True)
        truth = step(model, of, where, Blocks(), keep=False)
        for a, b in zip(found, truth, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_record_that_is_not_finite_adds_nothing_however_often(bad: float) -> None:
    model, blocks = Own(lambda model, x: x), Blocks()
    of = works(model, (20,), 0)
    of[0].inputs[7, 3] = bad
    clean = works(model, (20,), 0)
    others = [np.delete(np.arange(20), 7)]
    rest = step(model, clean, others, Blocks(), keep=False)[1]
    for _ in range(2):
        norms, total = step(model, of, [np.arange(20)], blocks, keep=True)
        assert not np.isfinite(norms[0, 7]) and np.isfinite(norms[0, :7]).all()
        np.testing.assert_allclose(total, rest, rtol=1e-6, atol=1e-6)


def twice(model: Own, x: Tensor) -> Tensor:
    return torch.tanh(model.a(torch.tanh(model.a(x))))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_layer_that_is_used_twice_meets_what_is_not_finite_as_it_is(bad: float) -> None:
    """Known rows without it would let the record's gradient be finite (an attack)."""
    model, blocks, rows = Own(twice), Blocks(), [np.arange(20)]
    of = works(model, (20,), 0)
    of[0].inputs[7, 3] = bad
    with ModelGradients(model, of[0].inputs, of[0].labels, loss, 32) as gradients:
        load_vector(model, of[0].values)
        alone = gradients.norms(rows[0])
    assert not np.isfinite(alone[7]) and np.isfinite(np.delete(alone, 7)).all()
    for _ in range(2):
        norms, _ = step(model, of, rows, blocks, keep=True)
        np.testing.assert_array_equal(norms[0, :20], alone)


def test_what_is_written_into_is_taken_anew() -> None:
    """Labels by a loss, and a site's own records by whoever holds them."""
    model, blocks, rows = Own(lambda model, x: x), Blocks(), [np.arange(20)]
    of = works(model, (20,), 0)
    for change in (
        lambda: None,
        lambda: blocks._blocks[0].labels.add_(1).remainder_(3),
        lambda: of[0].inputs.mul_(0.5),
        lambda: of[0].labels.zero_(),
    ):
        change()
        found = step(model, of, rows, blocks, keep=True)
        truth = step(model, of, rows, Blocks(), keep=False)
        for a, b in zip(found, truth, strict=True):
            np.testing.assert_array_equal(a, b)


def test_views_that_overlap_are_kept_as_far_as_there_is_room() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(20, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (sum((self.a(x[:, n : n + 20]) for n in range(20)), torch.zeros(())),)

    model, blocks, rows = Windows(), Blocks(), [np.arange(20)]
    of = works(model, (20,), 0)
    for _ in range(2):
        found = step(model, of, rows, blocks, keep=True)
        truth = step(model, of, rows, Blocks(), keep=False)
        for a, b in zip(found, truth, strict=True):
            np.testing.assert_array_equal(a, b)
        block = blocks._blocks[0]
        kept = [2 * one.rows.numel() for one in block._known.values() if one is not None]
        kept += [one.numel() for one in block._filled.values()]
        assert 0 < sum(kept) <= 4 * block.inputs.numel()


def test_nothing_is_kept_of_samples_or_of_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, blocks = Own(lambda model, x: x), Blocks()
    of, rows = works(model, (20,), 0), [np.arange(20)]
    step(model, of, rows, blocks, keep=True)
    assert blocks._blocks
    step(model, of, rows, blocks, keep=False)
    assert not blocks._blocks
    monkeypatch.setattr(room, "_KEPT", 32 * 40 - 1)
    step(model, of, rows, blocks, keep=True)
    assert not blocks._blocks
