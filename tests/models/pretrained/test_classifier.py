"""A pretrained transformer with few trained values.

Covers fedlite/models/pretrained/adapters.py, fedlite/models/pretrained/network.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlite.models import build
from fedlite.models.checks import check
from fedlite.models.pretrained import Classifier
from fedlite.models.pretrained.adapters import METHODS, NAME, adapters_of, product
from fedlite.models.pretrained.network import layers_of
from fedlite.parameters import Layout, load_vector, to_vector, turns_of
from fedlite.privacy.gradients import ModelGradients
from fedlite.tasks import joint, make
from tests.models.pretrained.conftest import LAYERS, WIDTH, save, texts

TASK = make("classification")
SHAPE = (2, 12)


def model_of(base: Path, method: str = "both", classes: int = 3, **options: object) -> Classifier:
    """Return a model with values that training could have given it: none is zero."""
    # Of DistilBERT peft does not say what is usual.
    own = {"targets": ["q_lin", "v_lin"]} if base.name == "distilbert" else {}
    model = build("lora", SHAPE, classes, seed=1, base=str(base), method=method, **own, **options)
    assert isinstance(model, Classifier)
    values = np.random.default_rng(0).normal(0, 0.2, to_vector(model).size)
    load_vector(model, values.astype(np.float32))
    return model


def single(model: Classifier, x: Tensor, y: Tensor) -> np.ndarray:
    """Return each record's gradient by autograd on that record alone, float64 [n, d]."""
    loss, trained = joint(TASK), [p for p in model.parameters() if p.requires_grad]
    found = []
    for row in range(len(y)):
        value = loss(model(x[row : row + 1]), y[row : row + 1]).sum()
        parts = torch.autograd.grad(value, trained)
        found.append(torch.cat([part.double().flatten() for part in parts]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("method", ["both", "frozen-a", "sb"])
def test_gradients_record_by_record_are_those_of_a_loop(base: Path, method: str, side: str) -> None:
    model = model_of(base, method, rank=3)
    x, y = texts(7, side=side), torch.arange(7) % 3
    model.train()
    truth = single(model, x, y)
    factors = np.linspace(-1, 1, 7)
    with ModelGradients(model, x, y, joint(TASK), 4) as gradients:
        norms = gradients.norms(np.arange(7))
        total = gradients.weighted(factors)
        assert np.allclose(norms, np.linalg.norm(truth, axis=1), rtol=1e-5)
        assert np.abs(total - factors @ truth).max() <= 1e-5 * np.abs(truth).max()
        one = gradients.norms(np.array([2]))
        assert np.allclose(one, np.linalg.norm(truth[2]), rtol=1e-5)
        assert np.allclose(gradients.weighted(np.array([2.0])), 2 * truth[2], atol=1e-5)
        assert gradients.norms(np.array([], np.int64)).size == 0
        assert not gradients.weighted(np.array([])).any()


def test_a_text_is_the_same_whichever_side_is_padded(base: Path) -> None:
    if base.name == "distilbert":
        pytest.skip("counts places by itself; data sets are padded on the right")
    model = model_of(base)
    model.eval()
    right, left = texts(6), texts(6, side="left")
    # The same tokens in the same order, as far as they count.
    for a, b in zip(right, left, strict=True):
        b[0, b[1] > 0] = a[0, a[1] > 0]
    with torch.no_grad():
        for one, other in zip(model(right), model(left), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_only_what_averages_exactly_says_so(bert: Path, method: str) -> None:
    """The mean of the sites' products against the product of the sites' means."""
    model, rng = model_of(bert, method), np.random.default_rng(1)
    start = to_vector(model)

    def products(vector: np.ndarray) -> Tensor:
        load_vector(model, vector)
        pairs = (product(module) for _, module in adapters_of(model))
        return torch.cat([(up @ down).flatten() for down, up in pairs])

    turns = turns_of(Layout.of(model), model.standing())
    assert len(turns) == (2 if method == "alternating" else 0)
    for moving in [turn.moving for turn in turns] or [slice(None)]:
        sites = [start.copy() for _ in range(4)]
        for vector in sites:
            vector[moving] = rng.normal(0, 0.3, vector[moving].size)
        wanted = torch.stack([products(vector) for vector in sites]).mean(0)
        found = products(np.mean(sites, axis=0))
        error = float((found - wanted).norm() / wanted.norm())
        assert error < 1e-5 if method != "both" else error > 0.3


@pytest.mark.parametrize("method", ["both", "alternating", "heads"])
def test_the_shallow_branch_alone_needs_the_first_layers_only(base: Path, method: str) -> None:
    """Its answers are those of the whole; one layer above stays, frozen, and no other."""
    targets = ["q_lin"] if base.name == "distilbert" and method != "heads" else []
    model = build("lora", SHAPE, 3, seed=1, base=str(base), method=method, targets=targets)
    alone = model.early()
    layers = len(layers_of(alone.whole.features.network)[1])
    assert layers == LAYERS // 2 + 1 and len(layers_of(model.features.network)[1]) == LAYERS
    given = texts(5)
    with torch.no_grad():
        (answer,) = alone(alone.prepare(given))
        assert torch.allclose(answer, model(model.prepare(given))[0], atol=1e-5)
    mine = [n for n, p in alone.named_parameters() if p.requires_grad]
    whole = [n for n, p in model.named_parameters() if p.requires_grad]
    assert mine == [n for n in whole if n in set(mine)] and 0 < len(mine) < len(whole)
    costs, all_of_it = alone.costs(), model.costs()
    assert costs == {part: all_of_it[part] for part in ("stem", "exit")}
    counted = sum(p.numel() for p in alone.parameters() if p.requires_grad)
    assert sum(part["parameters"] for part in costs.values()) == counted
    assert alone.standing() == tuple(tuple(n for n in t if n in mine) for t in model.standing())


@pytest.mark.parametrize("method", METHODS)
def test_the_factors_of_a_product_are_named(bert: Path, method: str) -> None:
    model = model_of(bert, method)
    named = dict(model.named_parameters())
    pairs = [(named[left], named[right]) for left, right in model.products()]
    assert len(pairs) == 2 * LAYERS
    for (left, right), (_, module) in zip(pairs, adapters_of(model), strict=True):
        down, up = product(module)
        assert torch.equal(right, down) and left.requires_grad
        assert method == "sb" or torch.equal(left, up)
        assert right.requires_grad == (method in ("both", "alternating"))
    assert build("lora", SHAPE, 3, seed=1, base=str(bert), method="heads").products() == ()


@pytest.mark.parametrize(
    ("method", "size"),
    [
        ("both", 2 * LAYERS * 2 * 8 * WIDTH),
        ("frozen-a", 2 * LAYERS * 8 * WIDTH),
        ("alternating", 2 * LAYERS * 2 * 8 * WIDTH),
        ("sb", 2 * LAYERS * 8 * 8),
        ("heads", 0),
    ],
)
def test_so_many_values_are_trained(bert: Path, method: str, size: int) -> None:
    """Query and value of each layer, and the two heads, a number each for two classes."""
    model = build("lora", SHAPE, 2, seed=1, base=str(bert), method=method)
    heads = (WIDTH + 1) + (3 * WIDTH + 1)
    assert Layout.of(model).size == size + heads
    costs = model.costs()
    assert sum(part["parameters"] for part in costs.values()) == size + heads
    assert 0 < costs["stem"]["macs"] and 0.4 < costs["stem"]["macs"] / costs["tail"]["macs"] < 1.6


@pytest.mark.parametrize("method", [*METHODS, "heads"])
def test_a_new_model_answers_as_its_base_does_and_can_be_trained(bert: Path, method: str) -> None:
    model = build("lora", SHAPE, 3, seed=1, base=str(bert), method=method)
    with torch.no_grad():
        found = model.features(texts(5))
        plain = build("lora", SHAPE, 3, seed=1, base=str(bert), method="heads", read=[LAYERS])
        wanted = plain.features(texts(5))
    deep = model.features.widths[1]
    assert torch.allclose(found[:, :WIDTH], wanted[:, :WIDTH], atol=1e-5)
    assert torch.allclose(found[:, -WIDTH:], wanted[:, -WIDTH:], atol=1e-5) and deep
    check(model, TASK, batch=20)


def test_what_a_record_becomes_depends_on_it_alone(bert: Path) -> None:
    """To the bit: at another place, and beside other records."""
    model = build("lora", SHAPE, 3, seed=1, base=str(bert), method="heads")
    x = texts(70)
    found = model.prepare(x)
    assert torch.equal(model.prepare(x.flip(0)).flip(0), found)
    assert torch.equal(model.prepare(x[3:]), found[3:])
    assert torch.equal(torch.cat([model.prepare(row[None]) for row in x]), found)


@pytest.mark.long
@pytest.mark.data("minilm")
def test_it_depends_on_it_alone_where_kernels_are_as_wide_as_real_ones_too() -> None:
    model = build("lora", (2, 32), 2, seed=1, base="minilm", method="heads")
    x = texts(40, length=32)
    found = model.prepare(x)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(model.prepare(x[order]), found[order])
    assert torch.equal(model.prepare(x[5:]), found[5:])


def test_a_text_without_a_token_is_a_text(bert: Path) -> None:
    model = model_of(bert)
    x = texts(3)
    x[1, 1] = 0
    for answers in model(x):
        assert torch.isfinite(answers).all()


def test_what_fills_a_text_up_changes_no_answer(base: Path) -> None:
    """Not by a bit: whichever token a tokenizer's settings name for it."""
    model = model_of(base)
    model.eval()
    one = texts(6)
    other = one.clone()
    other[:, 0][other[:, 1] == 0] = 7
    assert not torch.equal(one, other)
    with torch.no_grad():
        for a, b in zip(model(one), model(other), strict=True):
            assert torch.equal(a, b)


def test_two_machines_build_the_same_and_another_base_is_another_model(
    bert: Path, tmp_path: Path
) -> None:
    one, same = (Layout.of(model_of(bert, "frozen-a")) for _ in range(2))
    assert one == same
    other = Layout.of(model_of(save("bert", tmp_path / "other", seed=7), "frozen-a"))
    assert other.names == one.names and other.digest != one.digest


def test_the_public_part_of_an_adapter_does_not_hang_on_the_seed(bert: Path) -> None:
    a, b = (
        build("lora", SHAPE, 3, seed=seed, base=str(bert), method="frozen-a") for seed in (1, 2)
    )
    for (_, one), (_, two) in zip(adapters_of(a), adapters_of(b), strict=True):
        assert torch.equal(one.lora_A[NAME].weight, two.lora_A[NAME].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["q"]}, r"model\.options\.targets: .* got q; there are .*query"),
        ({"layers": [5]}, r"model\.options\.layers: must be from 1 to the 4 layers"),
        ({"read": [0]}, r"model\.options\.read: must be from 1 to the 4 layers"),
        ({"exit": 9}, r"model\.options\.exit: must be from 1 to the 4 layers"),
        ({"rank": 0}, r"model\.options\.rank: must be from 1 to 32"),
        ({"rank": 400}, r"model\.options\.rank: must be from 1 to 32"),
        ({"method": "lora"}, r"model\.options\.method: must be one of 'both'"),
        ({"base": "nowhere"}, r"model\.options\.base: must be one of minilm"),
    ],
)
def test_wrong_options_are_named(bert: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("lora", SHAPE, 3, seed=1, **{"base": str(bert), "method": "sb", **options})


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"safetensors: must be a whole safetensors file"):
        build("lora", SHAPE, 3, seed=1, base=str(tmp_path))


def test_records_that_are_no_texts_are_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"needs texts \[2, length\]"):
        build("lora", (1, 8, 8), 3, seed=1, base=str(bert))
