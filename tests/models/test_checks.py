"""Models that cannot be trained, each refused by the name of what is wrong; and those that can."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlite.models import Branched, build, names
from fedlite.models.checks import check
from fedlite.models.single import Single
from fedlite.tasks import make as make_task
from fedlite.tasks.classification import Classification
from fedlite.training.local import flatten

TASK = make_task("classification")


def toy(*body: nn.Module, tail: nn.Module | None = None, width: int = 6) -> Branched:
    """A model of records [1, 4, 4] in 3 classes, whose stem ends in `body`."""
    torch.manual_seed(1)
    stem = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), *body)
    heads = nn.Linear(width, 3), tail or nn.Linear(width, 3)
    return Branched(stem, *heads, shape=(1, 4, 4), classes=3)


class Counting(nn.Module):
    """Passes records on; counts them, or only has a table of whole numbers."""

    def __init__(self, *, counts: bool) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.counts = counts

    def forward(self, x: Tensor) -> Tensor:
        if self.counts:
            self.seen += len(x)
        return x + self.seen


class Through(nn.Module):
    """Any function of the hidden values."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Recurrent(nn.Module):
    """One step of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cell(x[:, None])[0][:, 0]
        return found


class OneHead(Branched):
    """Answers once."""

    def forward(self, prepared: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = self.tail(self.stem(prepared))
        return found


class Scaled(Branched):
    """Has a parameter beside its parts."""

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.scale * self.stem(prepared)
        return self.exit(hidden), self.tail(hidden)


def of_class(kind: type[Branched]) -> Branched:
    model = toy()
    return kind(model.stem, model.exit, model.tail, shape=model.shape, classes=3)


def idle() -> Branched:
    model = toy()
    model.stem.idle = nn.Parameter(torch.zeros(3))
    return model


def sharing() -> Branched:
    model = toy()
    model.exit.weight = nn.Parameter(model.tail.weight.data[:])
    return model


def frozen() -> Branched:
    model = toy()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


def tied() -> Branched:
    model = toy()
    model.exit.weight = model.tail.weight
    return model


def alone() -> Branched:
    model = of_class(Scaled)
    model.scale = nn.Parameter(torch.ones(6))
    return model


def overwriting() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten()
    )


def random_memory() -> Branched:
    return toy(nn.Dropout(0.5))


def complex_layer() -> nn.Linear:
    layer = nn.Linear(6, 3)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.complex64))
    return layer


# What is refused whatever is protected, and what is said of it.
WRONG: dict[str, tuple[Callable[[], Branched], str]] = {
    "complex": (
        lambda: toy(tail=complex_layer()),
        r"'tail\.weight' must hold real numbers, got torch\.complex64",
    ),
    "counter": (
        lambda: toy(Counting(counts=True)),
        r"buffer 'stem\.2\.seen' \(torch\.int64\) changes in training",
    ),
    "two on one memory": (sharing, r"'exit\.weight' and 'tail\.weight' are two parameters on"),
    "nothing to train": (frozen, r"must have a parameter"),
    "too many classes": (lambda: toy(tail=nn.Linear(6, 4)), r"'tail'.*\[2, 3\].*got \[2, 4\]"),
    "one number a record": (
        lambda: toy(tail=nn.Sequential(nn.Linear(6, 3), Through(lambda x: x.sum(1)))),
        r"'tail' must return outputs.*got \[2\]",
    ),
    "no logits": (
        lambda: toy(tail=nn.Sequential(nn.Linear(6, 3), Through(lambda x: {"logits": x}))),
        r"'tail' must return outputs.*got dict",
    ),
    "one head": (lambda: of_class(OneHead), r"must return 2 tensors.*got Tensor"),
    "another width": (lambda: toy(width=7), r"must take records of shape \[1, 4, 4\].*cannot: "),
    "one record too few": (
        lambda: toy(Through(lambda x: x.squeeze())),
        r"'exit' must return outputs.*\[1, 3\] for 1 records, got \[3\]",
    ),
    "overwritten": (
        lambda: toy(nn.Sigmoid(), nn.ReLU(inplace=True)),
        r"must have gradients.*in place",
    ),
}
# What is refused only where records are protected one by one.
PRIVATE: dict[str, tuple[Callable[[], Branched], str]] = {
    "BatchNorm": (lambda: toy(nn.BatchNorm1d(6)), r"'stem\.2' is BatchNorm1d.*GroupNorm\(1, 6\)"),
    "BatchNorm without weights": (
        lambda: toy(nn.BatchNorm1d(6, affine=False, track_running_stats=False)),
        r"'stem\.2' is BatchNorm1d",
    ),
    "running statistics": (
        lambda: toy(
            nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
        ),
        r"'stem\.3' is InstanceNorm1d.*leave track_running_stats out",
    ),
    "no gradient": (idle, r"'stem\.idle' gets no gradient.*requires_grad"),
    "overwritten convolution": (
        lambda: toy(overwriting(), width=8),
        r"'stem\.2\.2' overwrites.*leave inplace=True out",
    ),
    "overwritten by an operation": (
        lambda: toy(
            nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 1, 1), Through(Tensor.relu_), nn.Flatten()
        ),
        r"an operation \(x \+= y, relu_\) overwrites.*write x = x \+ y",
    ),
    "LSTM": (lambda: toy(Recurrent()), r"'stem\.2\.cell' is LSTM.*DPLSTM"),
    "parameter of the model": (alone, r"'scale' belongs to the model itself; put it into a layer"),
    "chance": (random_memory, r"most of all for '.*'.*random"),
    "mean of the records": (
        lambda: toy(Through(lambda x: x - x.mean(0))),
        r"most of all for 'stem\.1\.weight'.*other records",
    ),
}
RIGHT: dict[str, Callable[[], Branched]] = {
    "plain": toy,
    "tied": tied,
    "table of whole numbers": lambda: toy(Counting(counts=False)),
    "GroupNorm": lambda: toy(nn.GroupNorm(2, 6)),
    "overwritten output": lambda: toy(nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("batch", [0, 20])
def test_what_cannot_be_trained_is_named(name: str, batch: int) -> None:
    make, told = WRONG[name]
    with pytest.raises(ValueError, match=re.compile("^model: .*" + told, re.DOTALL)):
        check(make(), TASK, batch=batch)


@pytest.mark.parametrize("name", PRIVATE)
def test_what_has_no_gradients_by_record_is_named_under_record_privacy(name: str) -> None:
    make, told = PRIVATE[name]
    check(make(), TASK)
    with pytest.raises(ValueError, match=re.compile("^model: .*" + told, re.DOTALL)):
        check(make(), TASK, batch=20)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("batch", [0, 20])
def test_what_can_be_trained_passes_and_is_left_as_it_was(name: str, batch: int) -> None:
    model = RIGHT[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check(model, TASK, batch=batch)
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None for p in model.parameters()) and model.training


class Own(Classification):
    """A task of one's own whose parts are given by name."""

    def __init__(self, **parts: Callable[..., object]) -> None:
        for name, part in parts.items():
            setattr(self, name, lambda *args, part=part: part(super(Own, self), *args))


def failing(*_: object) -> object:
    raise KeyError("nowhere")


@pytest.mark.parametrize(
    ("part", "made", "told"),
    [
        (
            "loss",
            lambda task, *args: task.loss(*args).mean(),
            r"loss of each record, \[2\].*got \[\]",
        ),
        ("loss", lambda task, *args: args[0], r"loss of each record, .*got \[2, 3\]"),
        ("loss", lambda task, *args: 0.5, r"Own.loss must return.*(got float|cannot)"),
        ("loss", lambda task, *args: task.loss(*args) * torch.nan, r"Own.loss must be finite"),
        ("loss", failing, r"Own must take answers \[2, 3\] .*cannot: 'nowhere'"),
        (
            "scores",
            lambda task, *args: {"accuracy": 1.0},
            r"Own.scores must return a figure for each",
        ),
        ("scores", lambda task, *args: {}, r"'accuracy' \(its `main`\) among them, got {}"),
        ("scores", failing, r"Own must take answers .*cannot: 'nowhere'"),
    ],
)
def test_a_task_that_is_none_is_named(part: str, made: Callable[..., object], told: str) -> None:
    with pytest.raises(ValueError, match=f"^task.name: .*{told}"):
        check(toy(), Own(**{part: made}))
    check(toy(), Own())


def test_a_model_that_fails_or_answers_nothing_is_named() -> None:
    """It was a traceback, and for NaN two sites to be mended after three empty rounds."""
    with pytest.raises(ValueError, match=r"^model: must take records.*cannot: 'nowhere'"):
        check(toy(Through(failing)), TASK)
    with pytest.raises(ValueError, match=r"^model: must return finite outputs"):
        check(toy(Through(lambda x: x * torch.nan)), TASK)


def test_a_site_s_flat_model_is_held_to_the_same() -> None:
    model = toy()
    flatten(model)
    check(model, TASK)
    unused = idle()
    flatten(unused)
    with pytest.raises(ValueError, match=r"'stem\.idle' gets no gradient"):
        check(unused, TASK, private=True)


def prepared(made: Callable[[Tensor], Tensor]) -> Branched:
    """Return a model of one's own with a transform of one's own."""

    class Prepared(Branched):
        def prepare(self, x: Tensor) -> Tensor:
            return made(x)

    return of_class(Prepared)


MIXING: list[Callable[[Tensor], Tensor]] = [
    lambda x: x - x.float().mean(0),
    lambda x: x / (1 + x.abs().sum()),
    lambda x: torch.cat([x[:1], x[:-1]]),
    # No more than the last bits.
    lambda x: x * (1.0 + 1e-7 * len(x)),
]


@pytest.mark.parametrize("made", MIXING)
def test_what_is_done_to_a_record_before_looks_at_no_other_under_record_privacy(
    made: Callable[[Tensor], Tensor],
) -> None:
    """It comes before a gradient is clipped: one record would move all others' gradients."""
    rule = "must make the same of a record, to the bit"
    check(prepared(made), TASK)
    with pytest.raises(ValueError, match=f"^model: prepare {rule}"):
        check(prepared(made), TASK, batch=20)

    for name, places in (("prepare", (True, False)), ("tensors", (False, True))):

        def tensors(task: Classification, *given: Any, places: Any = places) -> tuple[Tensor, ...]:
            pairs = zip(task.tensors(*given), places, strict=True)
            return tuple(made(of) if mixed else of for of, mixed in pairs)

        with pytest.raises(ValueError, match=f"^model: {name} {rule}"):
            check(toy(), Own(tensors=tensors), batch=20)
    check(prepared(lambda x: x / (1.0 + x.square().sum(1, keepdim=True))), TASK, batch=20)


class Numbers(nn.Module):
    """Reads whole numbers, which it makes up of a narrower kind than data sets hold."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(24, 3)

    def made_up(self, count: int) -> Tensor:
        return (torch.arange(6 * count) % 5).view(count, 1, 6).int()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(x[:, 0]).flatten(1))
        return found


def test_made_up_records_need_neither_the_type_nor_the_mask_of_those_of_a_site() -> None:
    check(Single(Numbers(), shape=(1, 6), classes=3), TASK, batch=20)


def test_a_task_that_needs_more_than_made_up_records_is_refused_under_record_privacy() -> None:
    """Nothing else would say that it looks at each record alone."""
    check(toy(), Own(tensors=failing), private=True)
    with pytest.raises(ValueError, match=r"^model: tensors and prepare must take made-up"):
        check(toy(), Own(tensors=failing), batch=20)


SHAPES = {"cnn1d": (6, 100), "linear": (30,), "mlp": (30,)}


# Those of texts are checked in `pretrained`.
@pytest.mark.parametrize("name", sorted(set(names()) - {"lora", "lora-lm"}))
def test_the_house_s_models_pass(name: str) -> None:
    check(build(name, SHAPES.get(name, (1, 28, 28)), 10, seed=1), TASK)
