"""What every registered model promises, tried on the shapes it is meant for.

Covers fedlite/models/tinyml.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlite.models import build, names
from fedlite.tasks import joint, make

FITTING = [
    ("cnn", (1, 28, 28)),
    ("cnn", (1, 8, 8)),
    ("cnn", (3, 17, 12)),
    ("cnn1d", (6, 100)),
    ("cnn1d", (1, 8)),
    ("cosine", (1, 8, 8)),
    ("cosine", (30,)),
    ("cosine", (3,)),
    ("linear", (30,)),
    ("linear", (1,)),
    ("mcmahan", (1, 28, 28)),
    ("mcmahan", (3, 9, 12)),
    ("mlp", (30,)),
    ("mlp", (2, 4)),
    ("scatter", (1, 28, 28)),
    ("scatter", (3, 12, 8)),
    ("vgg", (1, 28, 28)),
    ("vgg", (3, 8, 9)),
]
WRONG = [
    ("cnn", (30,)),
    ("cnn", (1, 4, 28)),
    ("cnn1d", (1, 28, 28)),
    ("cnn1d", (3, 7)),
    ("linear", (1, 8, 8)),
    ("mcmahan", (30,)),
    ("mcmahan", (1, 7, 28)),
    ("vgg", (30,)),
    ("vgg", (1, 7, 28)),
    ("cosine", (1,)),
    ("cosine", (2,)),
    ("scatter", (30,)),
    ("scatter", (1, 10, 8)),
    ("scatter", (1, 4, 4)),
]


def records(n: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


# Those of texts are tried in `pretrained`.
TEXTS = {"lora", "lora-lm"}


def test_every_name_is_tried_here() -> None:
    assert {name for name, _ in FITTING} == set(names()) - {
        "lora",
        "lora-lm",
    }  # reads texts, see `pretrained`


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_both_branches_give_finite_logits_per_class(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 5, seed=1)
    early, deep = model(model.prepare(records(3, shape)))
    assert early.shape == deep.shape == (3, 5)
    assert torch.isfinite(early).all() and torch.isfinite(deep).all()


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_every_parameter_gets_a_gradient_from_the_joint_loss(
    name: str, shape: tuple[int, ...]
) -> None:
    model = build(name, shape, 5, seed=1)
    y = torch.tensor([0, 1, 4, 0])
    joint(make("classification"))(model(model.prepare(records(4, shape))), y).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0.0, key


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_weights_depend_on_the_seed_alone(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build(name, shape, 5, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = build(name, shape, 5, seed=7)
    pairs = zip(one.named_parameters(), two.named_parameters(), strict=True)
    assert all(k == j and torch.equal(a, b) for (k, a), (j, b) in pairs)
    other = build(name, shape, 5, seed=8)
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    drawn = name in {"cnn", "cnn1d", "mcmahan", "mlp", "vgg"}
    assert drawn != all(torch.equal(a, b) for (_, a), (_, b) in pairs)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_a_record_is_treated_alone(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 5, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(3)
            )
        x = records(70, shape)
        chosen = torch.tensor([69, 3, 40])
        x2 = records(70, shape, seed=9) * 50.0
        x2[:3] = x[chosen]
        prepared, prepared2 = model.prepare(x), model.prepare(x2)
        assert torch.allclose(prepared2[:3], prepared[chosen], rtol=0, atol=1e-6)
        for a, b in zip(model(prepared), model(prepared2), strict=True):
            assert torch.allclose(b[:3], a[chosen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_the_deployed_form_is_the_same_function_with_the_same_parameters(
    name: str, shape: tuple[int, ...]
) -> None:
    model = build(name, shape, 5, seed=1)
    deployed = model.deployed()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
        x = records(5, shape)
        for a, b in zip(model(model.prepare(x)), deployed(x), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert {id(p) for p in model.parameters()} == {id(p) for p in deployed.parameters()}
    assert deployed.costs() == model.costs()


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_no_model_mixes_records_or_keeps_statistics(name: str, shape: tuple[int, ...]) -> None:
    for module in build(name, shape, 5, seed=1).modules():
        assert "BatchNorm" not in type(module).__name__
    assert all(p.requires_grad for p in build(name, shape, 5, seed=1).parameters())


@pytest.mark.parametrize(("name", "shape"), WRONG)
def test_a_shape_that_does_not_fit_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        build(name, shape, 5, seed=0)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"model.name: must be one of cnn, cnn1d, cosine.* got 'resnet'"
    ):
        build("resnet", (1, 8, 8), 10, seed=0)


def test_an_unknown_option_is_refused_and_the_known_ones_are_told() -> None:
    assert build("cosine", (1, 8, 8), 10, seed=0, features=50).costs()["tail"]["parameters"] == 500
    with pytest.raises(ValueError, match=r"options.depth: .* of 'linear'.* exit_columns"):
        build("linear", (30,), 2, seed=0, depth=3)
    with pytest.raises(ValueError, match="exit_columns"):
        build("linear", (30,), 2, seed=0, exit_columns=31)
    for key, value in (("features", 0), ("bandwidth", 0.0)):
        with pytest.raises(ValueError, match=key):
            build("cosine", (1, 8, 8), 10, seed=0, **{key: value})
    with pytest.raises(ValueError, match="hidden"):
        build("mlp", (30,), 2, seed=0, hidden=0)


def test_a_bad_seed_or_shape_is_named() -> None:
    with pytest.raises(ValueError, match="seed"):
        build("mlp", (3,), 2, seed=-1)
    with pytest.raises(ValueError, match="shape"):
        build("mlp", (), 2, seed=0)


def test_what_cannot_be_called_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("make = 3\n")
    with pytest.raises(ValueError, match=r"^model.name: .*mine.py:make' must be a function, got 3"):
        build(f"{tmp_path / 'mine.py'}:make", (4,), 2, seed=0)
