import numpy as np
import pytest

from fedlite.data import Dataset, Source


def records(n: int = 4) -> Dataset:
    return Dataset(np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.arange(n) % 2)


def test_take_keeps_rows_and_labels_together() -> None:
    taken = records().take(np.array([3, 0]))
    assert taken.x.tolist() == [[6.0, 7.0], [0.0, 1.0]]
    assert taken.y.tolist() == [1, 0]
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((3, 2)), np.zeros(3, np.int64)),
        (np.zeros(3, np.float32), np.zeros(3, np.int64)),
        (np.zeros((3, 2), np.float32), np.zeros(3, np.int32)),
        (np.zeros((3, 2), np.float32), np.zeros(2, np.int64)),
    ],
)
def test_wrong_arrays_are_refused(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be (float32|int64)"):
        Dataset(x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3,)}, "shape"),
        ({"classes": 1, "labels": ("a",)}, "labels must lie in"),
        ({"labels": ("a",)}, "labels must name"),
        ({"groups": np.array([0, 1, 2, 0])}, "groups"),
        ({"groups": np.array([0, 1])}, "groups"),
    ],
)
def test_a_source_whose_parts_disagree_is_refused(change: dict, message: str) -> None:
    good = {
        "name": "s",
        "train": records(),
        "test": None,
        "groups": np.array([0, 1, 1, 0]),
        "group_names": ("a", "b"),
        "shape": (2,),
        "classes": 2,
        "labels": ("a", "b"),
        "origin": "here",
    }
    Source(**good)
    with pytest.raises(ValueError, match=message):
        Source(**(good | change))
