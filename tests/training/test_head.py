import numpy as np
import pytest
import torch

from fedlite.data import Dataset
from fedlite.models import build
from fedlite.training import head as home
from fedlite.training.head import Head, deep_features, deep_head, fit, fit_by_validation, home_head

RNG = np.random.default_rng


def records(n: int = 200, columns: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    x = rng.normal(size=(n, columns))
    y = (x[:, 0] - 0.5 * x[:, 1] + 0.7 + rng.logistic(size=n) > 0).astype(np.int64)
    return x, y


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_from_zero_it_is_ridge_logistic_regression(strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = records()
    head = fit(x, y, Head.zero(2, x.shape[1]), strength)
    # Two symmetric rows of weights cost half of what their difference would.
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(x, y)
    assert head.weight[1] - head.weight[0] == pytest.approx(model.coef_[0], abs=1e-4)
    # The all but free intercept differs by its own small penalty.
    assert head.bias[1] - head.bias[0] == pytest.approx(model.intercept_[0], abs=1e-3)


def test_both_solvers_agree_with_several_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = records()
    y = y + (x[:, 2] > 0.5)
    centre = Head(RNG(1).normal(size=(3, 6)), RNG(2).normal(size=3))
    newton = fit(x, y, centre, 2.0)
    monkeypatch.setattr(home, "_NEWTON", 0)
    other = fit(x, y, centre, 2.0)
    assert newton.weight == pytest.approx(other.weight, abs=2e-3)
    assert newton.bias == pytest.approx(other.bias, abs=5e-3)


def test_a_strong_penalty_keeps_the_centre_and_a_weak_one_leaves_it() -> None:
    x, y = records()
    centre = Head(RNG(1).normal(size=(2, 6)), np.zeros(2))
    assert np.abs(fit(x, y, centre, 1e7).weight - centre.weight).max() < 1e-3
    assert np.abs(fit(x, y, centre, 0.01).weight - centre.weight).max() > 0.3


def test_validation_follows_a_good_centre_and_leaves_a_bad_one() -> None:
    half = np.array([[1.0, -0.5, 0, 0, 0, 0]]) / 2
    true = Head(np.concatenate([-half, half]), np.array([-0.35, 0.35]))
    wrong = Head(-20 * true.weight, true.bias)
    errors = {"good": 0.0, "none": 0.0, "bad": 0.0}
    for seed in range(10):
        x, y = records(60, seed=seed)
        for name, centre in (("good", true), ("none", Head.zero(2, 6)), ("bad", wrong)):
            head = fit_by_validation(x, y, centre, RNG(seed))
            errors[name] += float(np.linalg.norm(head.weight - true.weight)) / 10
    assert errors["good"] < 0.7 * errors["none"]
    assert errors["bad"] < 0.2 * np.linalg.norm(wrong.weight - true.weight)


def test_a_site_with_one_class_gets_a_finite_head() -> None:
    x, _ = records(12)
    head = fit_by_validation(x, np.ones(12, np.int64), Head.zero(2, 6), RNG(0))
    assert np.isfinite(head.weight).all() and np.isfinite(head.bias).all()
    assert (head.logits(x).argmax(1) == 1).all()


@pytest.mark.parametrize(
    ("name", "shape"), [("linear", (6,)), ("cosine", (1, 4, 4)), ("scatter", (1, 8, 8))]
)
def test_the_centre_answers_as_the_deep_branch_does(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 3, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(RNG(1).normal(size=tuple(parameter.shape))))
        x = RNG(0).random((5, *shape)).astype(np.float32)
        _, deep = model(model.prepare(torch.from_numpy(x)))
    head = deep_head(model)
    assert head.logits(deep_features(model, x)) == pytest.approx(deep.double().numpy(), abs=1e-3)


@pytest.mark.parametrize(("name", "shape"), [("mlp", (6,)), ("cnn", (1, 8, 8))])
def test_a_model_that_trains_its_features_is_refused(name: str, shape: tuple[int, ...]) -> None:
    data = Dataset(np.zeros((4, *shape), np.float32), np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"home_head: needs a model whose deep branch.*cosine"):
        home_head(build(name, shape, 2, seed=0), data, seed=0)


def test_the_model_is_left_alone_and_the_head_repeats() -> None:
    x, y = records()
    model = build("linear", (6,), 2, seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    data = Dataset(x.astype(np.float32), y)
    one, two = (home_head(model, data, seed=5) for _ in range(2))
    assert np.array_equal(one.weight, two.weight) and np.abs(one.weight).max() > 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    x, y = records(10)
    with pytest.raises(ValueError, match="strength: must be greater than 0"):
        fit(x, y, Head.zero(2, 6), strength)
    with pytest.raises(ValueError, match="at least one record"):
        fit(x[:0], y[:0], Head.zero(2, 6), 1.0)
