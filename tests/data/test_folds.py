import numpy as np
from hypothesis import given, strategies as st

from fedlite.data.folds import stratified_folds


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(2, 7),
    st.integers(0, 2**31),
)
def test_folds_are_even_overall_and_in_every_class(y: list[int], folds: int, seed: int) -> None:
    labels = np.array(y, np.int64)
    result = stratified_folds(labels, folds, np.random.default_rng(seed))
    assert result.min() >= 0 and result.max() < folds
    assert np.ptp(np.bincount(result, minlength=folds)) <= 1
    for label in set(y):
        assert np.ptp(np.bincount(result[labels == label], minlength=folds)) <= 1
    again = stratified_folds(labels, folds, np.random.default_rng(seed))
    assert np.array_equal(result, again)


def test_the_draw_decides_who_is_held_out() -> None:
    y = np.zeros(100, np.int64)
    a, b = (stratified_folds(y, 5, np.random.default_rng(seed)) for seed in (0, 1))
    # Two independent draws agree on a fifth of the records.
    assert 5 <= int((a == b).sum()) <= 40
