"""Every model of the house as ONNX graphs goes the same ways as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from fedlite.inference import graphs
from fedlite.inference.routing import scores
from fedlite.models import Branched, build

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def test_a_package_that_is_missing_is_named_with_the_mend() -> None:
    with pytest.raises(
        ValueError, match=r"onnx_not_here: must be installed .* 'fedlite\[deploy\]'"
    ):
        graphs.needs("onnx", "onnx_not_here")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "shape", "router"),
    [
        ("linear", (13,), "confidence"),
        ("mlp", (6, 5), "entropy"),
        ("cosine", (1, 8, 8), "margin"),
        ("scatter", (1, 8, 8), "entropy"),
        ("cnn1d", (3, 40), "margin"),
        ("cnn", (3, 11, 9), "complexity"),
    ],
)
def test_every_house_model_and_router_goes_the_same_ways(
    name: str, shape: tuple[int, ...], router: str
) -> None:
    model = build(name, shape, 4, seed=1).eval()
    assert isinstance(model, Branched)
    drawn = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=drawn))
        x = model.made_up(300)
        shallow, deep = (one.double().numpy() for one in model(model.prepare(x)))
    score = scores(router, x.numpy(), softmax(shallow, axis=1))
    ranked = np.sort(score)
    at = int(np.argmax(np.diff(ranked[100:200]))) + 100
    threshold = float(ranked[at : at + 2].mean())
    parts = graphs.traced(model)
    stem, tail = map(onnxruntime.InferenceSession, parts)
    hidden, early = stem.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(early, shallow, atol=2e-5)
    np.testing.assert_allclose(tail.run(None, {"hidden": hidden})[0], deep, atol=2e-5)
    graph = graphs.joined(*parts, router, threshold)
    assert (graph is None) == (router == "complexity")
    if graph is None:
        return
    whole = onnxruntime.InferenceSession(graph)
    for row in range(300):
        answer, leaves = whole.run(None, {"stem/x": x.numpy()[row : row + 1]})
        assert bool(leaves) == (score[row] >= threshold)
        np.testing.assert_allclose(answer[0], (shallow if leaves else deep)[row], atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("classes", [3, 5])
def test_of_equal_shares_the_one_graph_leaves_early_where_batches_do(classes: int) -> None:
    model = build("linear", (3,), classes, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    whole = onnxruntime.InferenceSession(graphs.joined(*graphs.traced(model), "entropy", 0.0))
    shares = softmax(np.zeros((1, classes)), axis=1)
    x = np.zeros((1, 3), np.float32)
    assert whole.run(None, {"stem/x": x})[1] == (scores("entropy", x, shares)[0] >= 0.0)
