"""Integers of a transformer's graph: what they come to by hand, whatever stands beside a record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.inference.bundle import session
from fedlite.inference.integers import in_integers
from fedlite.models.pretrained.classifier import lora
from tests.models.pretrained.conftest import save, texts

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
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


def test_a_token_s_answer_depends_on_no_other_record() -> None:
    rng = np.random.default_rng(1)
    ready = session(in_integers(matrices([rng.normal(size=(16, 8)).astype(np.float32)])))
    x = rng.normal(size=(6, 4, 16)).astype(np.float32)
    x[5] *= 1000
    (whole,) = ready.run(None, {"x": x})
    for at in range(6):
        np.testing.assert_array_equal(ready.run(None, {"x": x[at : at + 1]})[0][0], whole[at])


def test_a_graph_of_an_encoder_is_a_quarter_and_answers_much_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedlite.inference import graphs, integers

    # The table of the small one has fewer values than any that is worth it.
    monkeypatch.setattr(integers, "_FEWEST", 100)
    model = lora((2, 12), 3, base=str(save("bert", tmp_path)), method="heads", exit=2, read=(2, 4))
    for head in (model.exit, model.tail):
        nn.init.normal_(head[1].linear.weight, generator=torch.Generator().manual_seed(0))
    stem, tail = graphs.traced(model)
    small_stem, small_tail = in_integers(stem), in_integers(tail)
    assert _bytes(small_stem) < 0.4 * _bytes(stem)
    x = texts(8).numpy()
    answers = []
    for one, rest in ((stem, tail), (small_stem, small_tail)):
        hidden, early = session(one).run(None, {"x": x})
        answers.append(np.concatenate([early, session(rest).run(None, {"hidden": hidden})[0]], 1))
    apart = np.abs(answers[0] - answers[1])
    assert 0 < apart.max() and apart.mean() < 0.1 * answers[0].std()


def _bytes(graph: bytes) -> int:
    """Return how many bytes the values of a graph take."""
    return sum(len(one.raw_data) for one in onnx.load_model_from_string(graph).graph.initializer)
