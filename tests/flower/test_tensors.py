"""Which tensors of a record are compressed, and what proves that both ends think the same."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedlite.flower.tensors import Tensors, read, write

ONES = np.ones((3, 2), np.float32)


def exact(name: str, array: np.ndarray, patterns: tuple[str, ...] = ()) -> bool:
    (tensor,) = Tensors.of("arrays", {name: array}, patterns).entries
    return tensor.exact


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_floats_are_compressed(kind: str) -> None:
    assert not exact("fc.weight", ONES.astype(kind))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("bn.running_mean", ONES),
        ("bn.running_var", ONES),
        ("running_var", ONES),
        ("bn.num_batches_tracked", np.asarray(3)),
        ("bn.num_batches_tracked", np.asarray(3.0)),
        ("batch_normalization/moving_variance", ONES),
        ("index", np.arange(4)),
        ("mask", np.array([True, False])),
        ("scale", np.asarray(1.5, np.float32)),
        ("none", np.zeros((0, 4), np.float32)),
        ("causal", np.array([0.0, -np.inf], np.float32)),
        ("holes", np.array([0.0, np.nan])),
        ("wave", np.ones(3, np.complex64)),
        ("brain", np.ones(3, np.dtype("V2"))),
        ("long", np.ones(3, np.longdouble)),
        ("names", np.array(["a", "b"])),
    ],
)
def test_what_compression_would_spoil_is_left_alone(name: str, array: np.ndarray) -> None:
    assert exact(name, array)


def test_a_pattern_of_the_user_s_is_left_alone() -> None:
    assert exact("head.weight", ONES, ("head.*",))
    assert not exact("tail.weight", ONES, ("head.*",))


def test_sizes_are_those_of_the_arrays() -> None:
    arrays = {"w": ONES, "n": np.arange(5), "s": np.asarray(1.0)}
    tensors = Tensors.of("arrays", arrays)
    assert tensors.size == 6
    assert tensors.exact_bytes == 5 * 8 + 8
    assert tensors.limit == 1 + 48 + 24
    assert Tensors.of("arrays", {str(i): ONES for i in range(9)}).mask_bytes == 2


def test_the_digest_tells_every_difference() -> None:
    forms = [
        ("arrays", {"w": ONES, "v": ONES}),
        ("others", {"w": ONES, "v": ONES}),
        ("arrays", {"v": ONES, "w": ONES}),
        ("arrays", {"w": ONES, "u": ONES}),
        ("arrays", {"w": ONES.T, "v": ONES}),
        ("arrays", {"w": ONES.astype("f8"), "v": ONES}),
        ("arrays", {"w": ONES * np.inf, "v": ONES}),
    ]
    digests = {Tensors.of(key, arrays).digest for key, arrays in forms}
    assert len(digests) == len(forms)
    tensors = Tensors.of("arrays", {"w": ONES, "v": ONES})
    assert tensors.digest == Tensors.of("arrays", {"w": ONES + 1, "v": ONES}).digest
    values = {"w": ONES, "v": ONES + 1}
    assert tensors.values_digest(values) != tensors.values_digest({"w": ONES + 1, "v": ONES})


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"w": ONES}, "'n' is on one side only"),
        ({"w": ONES, "n": np.arange(2), "x": ONES}, "'x' is on one side only"),
        ({"w": ONES.T, "n": np.arange(2)}, r"'w' has shape \(2, 3\), not \(3, 2\)"),
        ({"w": ONES.astype(int), "n": np.arange(2)}, "'w' is int64, not a float"),
        ({"w": ONES, "n": np.arange(2.0)}, "'n' is float64, not int64"),
    ],
)
def test_another_form_is_named(arrays: dict[str, np.ndarray], told: str) -> None:
    tensors = Tensors.of("arrays", {"w": ONES, "n": np.arange(2)})
    with pytest.raises(AssertionError, match=told):
        assert tensors.misfit(arrays) == ""
    assert tensors.misfit({"n": np.arange(2), "w": ONES.astype("f8")}) == ""


def test_records_come_back_as_they_were() -> None:
    arrays = {"w": np.asfortranarray(ONES), "s": np.asarray(2.5), "e": np.zeros((0, 3))}
    found = read(write(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape and found[name].dtype == array.dtype


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"nonsense"])
@pytest.mark.parametrize("stype", ["numpy.ndarray", "something.else"])
def test_what_is_no_array_is_named(data: bytes, stype: str) -> None:
    record = ArrayRecord({"w": Array("float32", (3,), stype, data)})
    with pytest.raises(ValueError, match="'w' is no NumPy array"):
        read(record)
