"""Models used in odd ways: a record's gradient is right and its own, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from fedlite.models import build
from fedlite.parameters import to_vector
from fedlite.privacy import aligned
from fedlite.privacy.gradients import ModelGradients, check_model
from fedlite.privacy.trial import block_of
from fedlite.training import many
from fedlite.training.blocks import Blocks
from fedlite.training.noised import StackedGradients


class Pair(nn.Module):
    """Two heads over what `forward` makes of a body's layers."""

    def __init__(self, forward: Callable[[Pair, Tensor], Tensor], width: int, **parts: object):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._apply_body = forward
        self.exit, self.deep = nn.Linear(width, 3), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self._apply_body(self, x).flatten(1)
        return self.exit(hidden), self.deep(hidden)


CLASSES = torch.zeros(1, dtype=torch.int64)


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    shallow, deep = outputs
    one = functional.cross_entropy(shallow, labels, reduction="none")
    return one + 2.0 * functional.cross_entropy(deep, labels, reduction="none")


def through(body: nn.Module, width: int) -> Pair:
    return Pair(lambda s, x: s.body(x), width, body=body)


def tied_linear() -> Pair:
    model = Pair(lambda s, x: s.b(torch.tanh(s.a(x))), 6, a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    model.b.weight = model.a.weight
    return model


def tied_embedding() -> Pair:
    model = Pair(
        lambda s, x: s.out(s.table((5 * x).long()).mean(1)),
        6,
        table=nn.Embedding(6, 6),
        out=nn.Linear(6, 6, bias=False),
    )
    model.out.weight = model.table.weight
    return model


def remembering() -> Pair:
    def forward(s: Pair, x: Tensor) -> Tensor:
        with torch.no_grad():
            s.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return s.a(x - s.mean)

    model = Pair(forward, 6, a=nn.Linear(6, 6))
    model.register_buffer("mean", torch.zeros(6))
    return model


def overwriting(s: Pair, x: Tensor) -> Tensor:
    hidden = x * 1.0
    found = s.a(hidden)
    hidden.add_(1.0)
    return found


class Owner(nn.Module):
    """A weight of its own, beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.a = nn.Parameter(torch.ones(6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.a(x * self.scale)
        return found


def root() -> Pair:
    return Pair(lambda s, x: s.a(x * s.p), 6, p=nn.Parameter(torch.ones(6)), a=nn.Linear(6, 6))


def over_time(s: Pair, x: Tensor) -> Tensor:
    return s.a(x.transpose(0, 1)).transpose(0, 1).mean(1)


SHARED = torch.sin(torch.arange(24.0)).reshape(4, 6)
RIGHT: dict[str, tuple[Callable[[], Pair], tuple[int, ...]]] = {
    "own parameter": (lambda: through(Owner(), 6), (6,)),
    "embedding": (
        lambda: Pair(lambda s, x: s.e((5 * x).long()), 24, e=nn.Embedding(6, 4)),
        (6,),
    ),
    "tied linear layers": (tied_linear, (6,)),
    "Opacus's LSTM": (
        lambda: Pair(lambda s, x: s.l(x)[0], 15, l=DPLSTM(4, 5, batch_first=True)),
        (3, 4),
    ),
    "Opacus's attention": (
        lambda: Pair(
            lambda s, x: s.l(x, x, x)[0].mean(1), 4, l=DPMultiheadAttention(4, 2, batch_first=True)
        ),
        (32, 4),
    ),
    "overwritten output": (
        lambda: through(nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)), 6),
        (6,),
    ),
    "overwritten output without bias": (
        lambda: through(nn.Sequential(nn.Linear(6, 7, bias=False), nn.ReLU(inplace=True)), 7),
        (6,),
    ),
    "overwritten output of round size": (
        lambda: through(nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(inplace=True)), 16),
        (16,),
    ),
    "groups": (lambda: through(nn.Conv2d(4, 6, 3, groups=2, dilation=2), 54), (4, 7, 7)),
    "transposed": (lambda: through(nn.ConvTranspose1d(2, 3, 3), 21), (2, 5)),
    "odd convolutions": (
        lambda: through(nn.Sequential(nn.Conv1d(3, 5, 3), nn.Tanh(), nn.Conv1d(5, 7, 3)), 189),
        (3, 31),
    ),
    "normalised weight": (lambda: through(parametrizations.weight_norm(nn.Linear(6, 6)), 6), (6,)),
}
REFUSED: dict[str, tuple[Callable[[], Pair], tuple[int, ...]]] = {
    "weight as a function's argument": (
        lambda: Pair(lambda s, x: functional.linear(x, s.a.weight), 6, a=nn.Linear(6, 6)),
        (6,),
    ),
    "both ways": (
        lambda: Pair(lambda s, x: functional.linear(s.a(x), s.a.weight), 6, a=nn.Linear(6, 6)),
        (6,),
    ),
    "parameter of the whole": (root, (6,)),
    "weight tied to an embedding": (tied_embedding, (6,)),
    "LSTM": (lambda: Pair(lambda s, x: s.l(x)[0], 15, l=nn.LSTM(4, 5, batch_first=True)), (3, 4)),
    "attention": (
        lambda: Pair(lambda s, x: s.l(x, x, x)[0], 12, l=nn.MultiheadAttention(4, 2)),
        (3, 4),
    ),
    # As many times as records in a block: nothing but the values is wrong.
    "time first": (lambda: Pair(over_time, 4, a=nn.Linear(4, 4)), (32, 4)),
    "short time first": (lambda: Pair(over_time, 4, a=nn.Linear(4, 4)), (3, 4)),
    "one input for all": (
        lambda: Pair(lambda s, x: x * s.a(SHARED[:1]), 6, a=nn.Linear(6, 6)),
        (6,),
    ),
    "overwritten input": (lambda: Pair(overwriting, 6, a=nn.Linear(6, 6)), (6,)),
    "overwritten convolution": (
        lambda: through(nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(inplace=True)), 15),
        (2, 7),
    ),
    "chance": (lambda: through(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), 6), (6,)),
    "mean of the records": (
        lambda: Pair(lambda s, x: s.a(x - x.mean(0)), 6, a=nn.Linear(6, 6)),
        (6,),
    ),
    "greatest of the records": (
        lambda: Pair(lambda s, x: s.a(x / x.max()), 6, a=nn.Linear(6, 6)),
        (6,),
    ),
    "neighbour": (lambda: Pair(lambda s, x: s.a(x + x.roll(1, 0)), 6, a=nn.Linear(6, 6)), (6,)),
    "memory": (remembering, (6,)),
    "keyword": (lambda: Pair(lambda s, x: s.a(input=x), 6, a=nn.Linear(6, 6)), (6,)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_an_odd_model_has_the_gradients_of_single_records(name: str) -> None:
    make, shape = RIGHT[name]
    torch.manual_seed(5)
    model = make()
    x, y = torch.rand(40, *shape), torch.randint(0, 3, (40,))
    check_model(model)
    block = block_of(model, x, CLASSES, loss, 12)
    parameters = list(model.parameters())
    truth = np.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(value.sum(), parameters)]).numpy()
            for value in (loss(model(x[i : i + 1]), y[i : i + 1]) for i in range(40))
        ]
    ).astype(np.float64)
    rows, factors = np.arange(40), np.cos(np.arange(40.0))
    with ModelGradients(model, x, y, loss, block) as gradients:
        norms, total = gradients.norms(rows), gradients.weighted(factors)
    np.testing.assert_allclose(norms, np.linalg.norm(truth, axis=1), rtol=1e-4)
    np.testing.assert_allclose(total, factors @ truth, atol=1e-4 * abs(truth).sum(0).max())


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_model_that_cannot_be_right_is_refused(name: str) -> None:
    make, shape = REFUSED[name]
    torch.manual_seed(5)
    model = make()
    with pytest.raises(ValueError, match="model: "):
        check_model(model)
        block_of(model, torch.rand(40, *shape), CLASSES, loss, 12)


HOUSE = [
    ("scatter", (1, 28, 28)),
    ("scatter", (3, 12, 12)),
    ("cosine", (1, 8, 8)),
    ("linear", (13,)),
    ("mlp", (13,)),
    ("cnn", (1, 8, 8)),
    ("cnn1d", (3, 31)),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "shape"), HOUSE)
def test_a_place_makes_no_difference_in_the_house_s_models(
    name: str, shape: tuple[int, ...]
) -> None:
    model = build(name, shape, 10, seed=1)
    torch.manual_seed(3)
    raw = torch.rand(70, *shape)
    with torch.no_grad():
        prepared = model.prepare(raw)
        # A fixed transform is no exception: what comes before a record may not change it.
        assert torch.equal(prepared[1:], model.prepare(raw[1:].clone()))
        assert torch.equal(prepared[:33], model.prepare(raw[:33].clone()))
    for batch, block in ((1, 32), (20, 64), (33, 64), (323, 416), (1000, 384)):
        assert block_of(model, prepared, CLASSES, loss, batch) == block


@pytest.mark.parametrize("threads", [2, 3])
def test_records_are_computed_by_one_thread(threads: int) -> None:
    """Another takes its share from the middle of a record, and does not flush denormal numbers."""
    seen, before = set[int](), torch.get_num_threads()

    def tiny(s: Pair, x: Tensor) -> Tensor:
        seen.add(torch.get_num_threads())
        return s.a((x * 1e-20) * 1e-20 * 1e20 * 1e20)

    model = Pair(tiny, 4, a=nn.Linear(1027, 4))
    inputs, labels = torch.full((64, 1027), 0.1), torch.zeros(64, dtype=torch.int64)
    torch.set_num_threads(threads)
    try:
        with ModelGradients(model, inputs, labels, loss, 64) as gradients:
            norms = gradients.norms(np.arange(64))
        work = many.Work(inputs, labels, SimpleNamespace(loss=loss), to_vector(model), 0.1, ())
        values = torch.from_numpy(to_vector(model))[None]
        with StackedGradients(model, [work], values, 64, Blocks()) as stacked:
            together = stacked.norms([np.arange(64)])[0]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
    assert (norms == norms[0]).all() and (together == norms).all()


def test_where_a_place_makes_a_difference_records_go_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dot products of rows at odd addresses, or a stand-in where a machine sums them alike."""
    shapes: list[int] = []

    def placed(s: Pair, x: Tensor) -> Tensor:
        shapes.append(len(x))
        return s.a(x * (1.0 + 1e-6 * torch.arange(len(x))[:, None]))

    model = Pair(placed, 6, a=nn.Linear(6, 6))
    assert block_of(model, torch.rand(3, 6), CLASSES, loss, 12) == 1
    assert set(shapes) == {1, 32}
    monkeypatch.setattr(aligned, "ALIGNED", 1)
    scatter = build("scatter", (1, 28, 28), 10, seed=1)
    assert block_of(scatter, torch.rand(3, scatter.columns), CLASSES, loss, 12) in (1, 32)


def test_a_frozen_layer_within_torch_func_has_no_place_and_is_filled_up() -> None:
    frozen = nn.Linear(16, 20).requires_grad_(False)
    model = Pair(lambda s, x: s.a(torch.func.vmap(frozen)(x)), 6, a=nn.Linear(20, 6))
    assert block_of(model, torch.rand(3, 16), CLASSES, loss, 12) == 32


def test_a_model_that_asks_whether_any_text_is_short_takes_them_one_by_one() -> None:
    """As libraries do, for another kernel: no difference beside texts that are all whole."""

    class Reader(Pair):
        def made_up(self, count: int) -> Tensor:
            ids = torch.arange(6 * count).view(count, 6)
            return torch.stack([ids, torch.ones_like(ids)], 1)

    def body(s: Pair, x: Tensor) -> Tensor:
        ids, mask = torch.sin(x[:, 0].float()), x[:, 1]
        return s.a(ids if mask.all() else ids * mask * (1.0 + 1e-6))

    model = Reader(body, 6, a=nn.Linear(6, 6))
    assert block_of(model, model.made_up(3), CLASSES, loss, 12) == 1


def test_a_trial_leaves_the_model_alone_and_is_made_once() -> None:
    model = through(nn.Linear(6, 6), 6)
    before = [p.clone() for p in model.parameters()]
    calls: list[int] = []
    model._apply_body = lambda s, x: calls.append(1) or s.body(x)  # type: ignore[func-returns-value]
    assert block_of(model, torch.rand(3, 6), CLASSES, loss, 11) == 32
    made = len(calls)
    assert (
        made > 0
        and block_of(model, torch.rand(9, 6), CLASSES, loss, 12) == 32
        and len(calls) == made
    )
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not model.exit._forward_hooks and "forward" not in vars(model.exit)
