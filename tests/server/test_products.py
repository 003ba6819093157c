"""What averaging factors apart costs: the estimate against the exact error."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded
from fedlite.parameters import Layout
from server.products import PROBES, Products

# Two products B A, and a head that is in none.
LAYOUT = Layout(
    ("one.a", "one.b", "two.a", "two.b", "head"), ((3, 40), (30, 3), (2, 50), (60, 2), (7,))
)
PAIRS = (("one.b", "one.a"), ("two.b", "two.a"))
WEIGHTS = (1.0, 3.0, 2.0)


def sites(seed: int, moving: tuple[str, ...] = LAYOUT.names) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a model, and what three sites made of the tensors that move, float32 [n]."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.3, LAYOUT.size).astype(np.float32)
    mask = np.repeat([name in moving for name in LAYOUT.names], LAYOUT.sizes)
    noise = rng.normal(0, 0.4, (len(WEIGHTS), LAYOUT.size)).astype(np.float32)
    return base, [base + mask * one for one in noise]


def exact(trained: list[np.ndarray]) -> float:
    """Return the mean over the products of the relative Frobenius error, by making them."""
    at = dict(
        zip(LAYOUT.names, np.split(np.arange(LAYOUT.size), np.cumsum(LAYOUT.sizes)), strict=False)
    )
    shapes = dict(zip(LAYOUT.names, LAYOUT.shapes, strict=True))

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(np.average(values, axis=0, weights=WEIGHTS))

    errors = []
    for b, a in PAIRS:
        lefts = [vector[at[b]].reshape(shapes[b]).astype(np.float64) for vector in trained]
        rights = [vector[at[a]].reshape(shapes[a]).astype(np.float64) for vector in trained]
        truth = mean([left @ right for left, right in zip(lefts, rights, strict=True)])
        wrong = truth - mean(lefts) @ mean(rights)
        errors.append(np.linalg.norm(wrong) / np.linalg.norm(truth))
    return float(np.mean(errors))


def estimate(products: Products, base: np.ndarray, trained: list[np.ndarray], number: int) -> float:
    products.start(base, number)
    for vector, weight in zip(trained, WEIGHTS, strict=True):
        change = vector - base
        sent = np.flatnonzero(change)
        products.add(Decoded(LAYOUT.size, sent, change[sent]), weight)
    assert products.error is not None
    return products.error


def test_the_estimate_is_the_exact_error_up_to_its_probes() -> None:
    products = Products(LAYOUT, PAIRS)
    base, trained = sites(0)
    truth = exact(trained)
    found = [estimate(products, base, trained, number) for number in range(1, 31)]
    assert truth > 0.3
    assert np.mean(found) == pytest.approx(truth, rel=0.05)
    assert np.std(found) < truth / np.sqrt(2 * PROBES)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_where_one_factor_stands_still_there_is_none(letter: str) -> None:
    moving = tuple(name for name in LAYOUT.names if name[-1] == letter)
    base, trained = sites(1, moving)
    assert exact(trained) < 1e-6
    assert estimate(Products(LAYOUT, PAIRS), base, trained, 1) == 0.0


def test_factors_that_are_not_trained_make_it_exact_and_no_products_make_it_nothing() -> None:
    base, trained = sites(2)
    assert estimate(Products(LAYOUT, (("one.b", "frozen"),)), base, trained, 1) == 0.0
    nothing = Products(LAYOUT, ())
    nothing.start(base, 1)
    nothing.add(Decoded(LAYOUT.size, None, trained[0]), 1.0)
    assert nothing.error is None


def test_what_is_held_does_not_grow_with_the_sites() -> None:
    products = Products(LAYOUT, PAIRS)
    base, trained = sites(3)
    products.start(base, 1)
    held = []
    for vector in trained:
        products.add(Decoded(LAYOUT.size, None, vector - base), 1.0)
        held.append(sum(total.size for pair in products._pairs for total in pair.sums))
    factors = LAYOUT.size - 7
    assert held == [factors + PROBES * (30 + 60)] * 3


def test_factors_must_be_matrices() -> None:
    with pytest.raises(ValueError, match=r"model\.products: factors must be matrices"):
        Products(LAYOUT, (("head", "one.a"),))
