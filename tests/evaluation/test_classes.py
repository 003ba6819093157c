"""Per-class figures against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fedlite.evaluation.classes import by_class, by_label, confusion


def test_classes_are_counted_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    told, true = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    counts = confusion(told, true, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(true, told))
    wanted = precision_recall_fscore_support(true, told)
    rows = by_class(counts, ("a", "b", "c", "d"))
    assert [row.precision for row in rows] == pytest.approx(list(wanted[0]))
    assert [row.recall for row in rows] == pytest.approx(list(wanted[1]))
    assert [row.f1 for row in rows] == pytest.approx(list(wanted[2]))
    assert [row.records for row in rows] == list(wanted[3])


def test_a_class_that_is_not_there_has_no_recall_and_one_never_told_no_precision() -> None:
    a, b, c = by_class(confusion(np.array([0, 0]), np.array([0, 1]), 3), ("a", "b", "c"))
    assert (a.precision, a.recall) == (0.5, 1.0)
    assert (b.precision, b.recall, b.f1) == (None, 0.0, 0.0)
    assert (c.precision, c.recall, c.f1, c.records) == (None, None, None, 0)


def test_labels_are_counted_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(1)
    told, true = rng.random((200, 3)) < 0.4, rng.random((200, 3)) < 0.3
    rows = by_label(told, true, ("x", "y", "z"))
    for at, row in enumerate(rows):
        wanted = precision_recall_fscore_support(true[:, at], told[:, at], average="binary")
        assert (row.precision, row.recall, row.f1) == pytest.approx(wanted[:3])
