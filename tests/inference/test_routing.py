"""Scores of routers against their definitions, written out or from another library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax as reference_softmax

from fedlite.inference.routing import HOUSE, ROUTERS, scores, softmax

LOGITS = np.random.default_rng(0).normal(0, 2, (50, 5))
SHARES = reference_softmax(LOGITS, axis=1)
IMAGES = np.random.default_rng(1).random((50, 1, 8, 8)).astype(np.float32)


def test_probabilities_are_scipys() -> None:
    np.testing.assert_allclose(softmax(LOGITS * 300), reference_softmax(LOGITS * 300, axis=1))


def test_scores_of_the_shallow_answer_are_their_definitions() -> None:
    ordered = np.sort(SHARES, axis=1)
    np.testing.assert_array_equal(scores("confidence", IMAGES, SHARES), ordered[:, -1])
    np.testing.assert_allclose(scores("margin", IMAGES, SHARES), ordered[:, -1] - ordered[:, -2])
    wanted = 1 - stats.entropy(SHARES, axis=1, base=5)
    np.testing.assert_allclose(scores("entropy", IMAGES, SHARES), wanted, atol=1e-12)


def test_complexity_is_the_entropy_of_the_pixels_and_the_length_of_a_text() -> None:
    for image, score in zip(IMAGES, scores("complexity", IMAGES, SHARES), strict=True):
        counts, _ = np.histogram(image.astype(np.float64), bins=32)
        assert score == pytest.approx(1 - stats.entropy(counts, base=32), abs=0.02)
    texts = np.zeros((2, 2, 10), np.int64)
    texts[0, 1, :4] = 1
    texts[1, 1] = 1
    np.testing.assert_allclose(scores("complexity", texts, SHARES[:2]), [0.6, 0.0])


@pytest.mark.parametrize("name", sorted(HOUSE))
def test_every_router_is_in_bounds_at_the_ends(name: str) -> None:
    ends = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = scores(name, np.zeros((3, 4), np.float32), ends)
    assert found.shape == (3,) and found.min() >= 0 and found.max() <= 1
    if name != "complexity":
        assert found[0] == found[2] == 1 and found[1] in (0, 0.5)


GREATEST = float(np.finfo(np.float32).max)
BAD = [
    (-GREATEST, GREATEST),
    (-3e38, 3e38),
    (-np.inf, np.inf),
    (np.inf, np.inf),
    (np.nan, 0.0),
    (np.nan, np.inf),
    (1e-45, 0.0),
    (-1e-45, 1e-45),
]


@pytest.mark.parametrize("name", sorted(HOUSE))
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_no_input_makes_a_router_fail_or_moves_another_s_score(name: str, kind: type) -> None:
    x, logits = IMAGES[:20].astype(kind), LOGITS[:20].copy()
    if kind is np.float64:
        x[19].flat[:2] = -1.7e308, 1.7e308
    for at, (one, other) in enumerate(BAD):
        x[at].flat[:2] = one, other
        logits[at, :2] = one, other
    found = scores(name, x, softmax(logits))
    assert found.shape == (20,) and found.min() >= 0 and found.max() <= 1
    for at in range(20):
        alone = scores(name, x[at : at + 1], softmax(logits[at : at + 1]))
        assert alone == pytest.approx(found[at], abs=1e-12)
    # What is no number, or infinite, is nothing to be sure of.
    assert not found[2:6].any()


def test_complexity_has_as_many_levels_of_the_widest_range_as_of_any() -> None:
    ramp = np.linspace(-1, 1, 64, dtype=np.float64)[None]
    for scale in (1e-30, 1.0, GREATEST):
        inputs = (ramp * scale).astype(np.float32)
        assert scores("complexity", inputs, SHARES[:1]) == pytest.approx(0, abs=1e-3)


def test_a_router_of_ones_own_is_called_by_its_file_with_its_options(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def first(inputs, shares, power=1.0):\n    return shares[:, 0] ** power\n")
    found = scores(f"{file}:first", IMAGES, SHARES, {"power": 2})
    np.testing.assert_allclose(found, SHARES[:, 0] ** 2)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("shares", r"array of shape \[50\]"),
        ("2 * shares.max(axis=1) + 1", "scores from 0 to 1"),
        ("shares[:, 0] * float('nan')", "scores from 0 to 1"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_a_router_of_ones_own_may_not_return(tmp_path: Path, body: str, rule: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def wrong(inputs, shares):\n    return {body}\n")
    with pytest.raises(ValueError, match=rf"inference\.router: .*{rule}.*mend .*mine\.py"):
        scores(f"{file}:wrong", IMAGES, SHARES)


def test_an_unknown_router_is_named_with_the_known() -> None:
    with pytest.raises(ValueError, match=r"inference\.router: must be one of complexity, conf"):
        ROUTERS.check("confidense")
