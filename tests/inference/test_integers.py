"""Integers of a transformer's graph: what they come to by hand, whatever stands beside a record."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.inference.bundle import session
from fedlite.inference.integers import in_floats, in_integers

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def matrices(weights: list[np.ndarray]) -> bytes:
    """Return a graph that multiplies by each matrix in turn, from x to y."""
    from onnx import TensorProto, helper, numpy_helper

    names = ["x", *(f"h{at}" for at in range(len(weights) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [one, f"w{at}"], [two])
        for at, (one, two) in enumerate(zip(names, names[1:], strict=False))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "t", None])
        for name in ("x", "y")
    ]
    kept = [numpy_helper.from_array(one, f"w{at}") for at, one in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(made.SerializeToString())


def by_hand(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the product in integers, in float64, with each token and column by itself."""
    token = np.maximum(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127), 1e-20)
    column = np.abs(weight).max(axis=0) / 127
    whole = np.rint(x / token).astype(np.int64) @ np.rint(weight / column).astype(np.int64)
    return np.asarray(whole * column * token)


def test_products_are_those_of_integers_by_hand() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(16, 24)), rng.normal(size=(24, 8)) * 10
    x = rng.normal(size=(3, 5, 16)).astype(np.float32)
    x[0, 0], x[1, 1] = 0, 1e4
    weights = [first.astype(np.float32), second.astype(np.float32)]
    (found,) = session(in_integers(matrices(weights))).run(None, {"x": x})
    wanted = by_hand(by_hand(x, weights[0]).astype(np.float32), weights[1])
    # Where a value is near a half, either whole number is right.
    close = np.isclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert close.all(axis=2).mean() > 0.85
    np.testing.assert_allclose(found, x @ weights[0] @ weights[1], rtol=0.05, atol=3000)
    assert (found[0, 0] == 0).all()


def test_products_of_integers_are_those_that_float32_makes_of_the_same_numbers() -> None:
    """Also where a processor has no VNNI and two products of bytes do not fit 16 bits."""
    weights = [np.ones((1024, 8), np.float32), -np.ones((8, 4), np.float32)]
    x = np.random.default_rng(4).uniform(0.9, 1, size=(3, 5, 1024)).astype(np.float32)
    graph = in_integers(matrices(weights))
    (found,) = session(graph).run(None, {"x": x})
    (plain,) = session(in_floats(graph), plain=True).run(None, {"x": x})
    np.testing.assert_array_equal(plain, found)
    np.testing.assert_allclose(found, x @ weights[0] @ weights[1], rtol=0.01)


def test_four_bits_of_a_matrix_are_those_of_eight_on_that_grid() -> None:
    rng = np.random.default_rng(3)
    whole, scale = rng.integers(-7, 8, size=(16, 8)), rng.uniform(0.5, 2, 8)
    whole[0] = 7
    weight = (whole * scale).astype(np.float32)
    x = rng.normal(size=(2, 3, 16)).astype(np.float32)
    small = in_integers(matrices([weight]), matrices=4)
    (found,) = session(small).run(None, {"x": x})
    token = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    wanted = np.rint(x / token) @ whole * scale * token
    assert np.isclose(found, wanted, rtol=1e-4, atol=1e-5).mean() > 0.95
    np.testing.assert_array_equal(session(small, plain=True).run(None, {"x": x})[0], found)


def test_a_token_s_answer_depends_on_no_other_record() -> None:
    rng = np.random.default_rng(1)
    ready = session(in_integers(matrices([rng.normal(size=(16, 8)).astype(np.float32)])))
    x = rng.normal(size=(6, 4, 16)).astype(np.float32)
    x[5] *= 1000
    (whole,) = ready.run(None, {"x": x})
    for at in range(6):
        np.testing.assert_array_equal(ready.run(None, {"x": x[at : at + 1]})[0][0], whole[at])


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_a_table_are_whole_numbers_of_a_step_of_their_own(bits: int) -> None:
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(2).normal(size=(5000, 20)).astype(np.float32)
    table[7], table[8] = 0, table[8] * 1000
    ends = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 20]),
    ]
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    kept = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    small = in_integers(made.SerializeToString(), bits)
    assert len(small) < table.nbytes * bits / 32 + 4.5 * len(table)
    ids = np.arange(5000).reshape(10, 500)
    (found,) = session(small).run(None, {"ids": ids})
    step = np.abs(table).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    wanted = np.rint(table / np.maximum(step, 1e-20)) * step
    np.testing.assert_allclose(found.reshape(5000, 20), wanted, rtol=1e-4, atol=1e-6)
