"""What a hostile client sends as Flower's own: dropped, and the run goes on as without it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as theirs
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedlite.flower import Compressed, compress, plain
from fedlite.flower.tensors import Tensors
from simulations.node import FIRST_NODE
from tests.flower.federation import NORMED, START, Arrays, Played, client, nearer, play, record_of

SHAPE = START["w"].shape
Tamper = Callable[[RecordDict], dict[str, Any]]


def written(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def headed(shape: tuple[int, ...], kind: str = "<f4", rest: bytes = b"x" * 8) -> bytes:
    """Return what NumPy reads as an array of any shape, in a hundred bytes."""
    file = io.BytesIO()
    told = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue() + rest


def claimed(data: bytes, stype: str = "numpy.ndarray") -> Array:
    """Return an array whose record says that it fits."""
    return Array("float32", SHAPE, stype, data)


ARRAYS = {
    "another shape inside": claimed(written(np.ones(7, np.float32))),
    "no array": claimed(b"junk"),
    "a broken header": claimed(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16),
    "another form": claimed(written(np.ones(SHAPE, np.float32)), "torch"),
    "objects": claimed(headed(SHAPE, "|O")),
    "text": claimed(written(np.full(SHAPE, "a"))),
    "complex": Array(np.ones(SHAPE, np.complex64)),
    "a structure": claimed(written(np.zeros(SHAPE, [("a", "<f4")]))),
    "all memory": claimed(headed((60, 10**11))),
    "fewer bytes": claimed(headed(SHAPE)),
    "NaN": Array(np.full(SHAPE, np.nan, np.float32)),
    "infinite": Array(np.full(SHAPE, -np.inf, np.float32)),
    "infinite as float32": Array(np.full(SHAPE, 1e300)),
    "far": Array(np.full(SHAPE, 1e20, np.float32)),
}
METRICS: dict[str, Any] = {
    "weight NaN": MetricRecord({"num-examples": float("nan"), "loss": 0.5}),
    "weight below 0": MetricRecord({"num-examples": -36, "loss": 0.5}),
    "weights": MetricRecord({"num-examples": [1, 2], "loss": 0.5}),
    "a list": MetricRecord({"num-examples": 10, "loss": [0.5, 1.0]}),
    "no loss": MetricRecord({"num-examples": 10}),
    "no metrics": ConfigRecord({"a": 1}),
}
BIAS = Array(np.ones(60, np.float32))
MORE = record_of({"w": np.ones(SHAPE, np.float32)})


def instead(key: str, record: Any) -> Tamper:
    return lambda content: {key: record}


ATTACKS: dict[str, Tamper] = {
    **{n: instead("arrays", ArrayRecord({"w": w, "b": BIAS})) for n, w in ARRAYS.items()},
    **{name: instead("metrics", metrics) for name, metrics in METRICS.items()},
    "more arrays": lambda c: {"more": MORE},
    "by another name": lambda c: {"arrays": None, "more": c["arrays"]},
    "no model": lambda c: {"arrays": None},
    "almost a frame": lambda c: {"arrays": ConfigRecord({"fedlite.frame": "text"})},
}


def hostile(tamper: Tamper) -> Played:
    """Return nodes of which the first changes what it replies to train."""
    node = Played(client(nearer, [compress()]), 4)

    def changed(reply: Message) -> Message:
        first = reply.metadata.src_node_id == FIRST_NODE
        if first and "arrays" in reply.content:
            content = {**dict(reply.content.items()), **tamper(reply.content)}
            reply.content = RecordDict({k: v for k, v in content.items() if v is not None})
        return reply

    node.tamper = changed
    return node


def silent() -> Arrays:
    """Return the model of the three others, which is what has to come out."""
    node = Played(app := client(nearer, [compress()]), 4)

    def broken(reply: Message) -> Message:
        if reply.metadata.src_node_id == FIRST_NODE and "arrays" in reply.content:
            reply.content = RecordDict({**dict(reply.content.items()), "arrays": _BROKEN})
        return reply

    node.tamper = broken
    return play(Compressed(FedAvg()), app, START, rounds=2, node=node)[0]


_BROKEN = ConfigRecord({"fedlite.frame": b"no frame"})


@pytest.fixture(scope="module")
def others() -> Arrays:
    return silent()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_client_s_own_arrays_and_metrics_change_nothing(
    name: str, others: Arrays, caplog: pytest.LogCaptureFixture
) -> None:
    node = hostile(ATTACKS[name])
    with caplog.at_level("INFO", "flwr"):
        found, _, _ = play(
            Compressed(FedAvg()), client(nearer, [compress()]), START, rounds=2, node=node
        )
    for key, array in others.items():
        np.testing.assert_array_equal(found[key], array, err_msg=f"{name} changed {key}")
    assert caplog.text.count(f"from node {FIRST_NODE}: fedlite: the update was dropped: ") == 2


SCORES = {
    "weight NaN": MetricRecord({"num-examples": float("nan"), "total": 0.5}),
    "weight below 0": MetricRecord({"num-examples": -36, "total": 0.5}),
    "weights": MetricRecord({"num-examples": [1, 2], "total": 0.5}),
    "a list": MetricRecord({"num-examples": 1, "total": [0.5, 1.0]}),
    "no score": MetricRecord({"num-examples": 1}),
    "no metrics": ConfigRecord({"a": 1}),
}


@pytest.mark.parametrize("name", SCORES)
def test_hostile_scores_neither_end_a_run_nor_are_averaged(name: str) -> None:
    app = client(nearer, [compress()])
    _, _, honest = play(Compressed(FedAvg()), app, START, rounds=2)
    node = Played(app, 4)

    def changed(reply: Message) -> Message:
        if reply.metadata.src_node_id == FIRST_NODE and "arrays" not in reply.content:
            reply.content = RecordDict({"metrics": SCORES[name]})
        return reply

    node.tamper = changed
    _, _, result = play(Compressed(FedAvg()), app, START, rounds=2, node=node)
    # All clients get the same model, so that all honest ones tell the same.
    for number, scores in honest.evaluate_metrics_clientapp.items():
        found = result.evaluate_metrics_clientapp[number]["total"]
        assert found == pytest.approx(scores["total"], rel=1e-12), name


# Flower's Bulyan takes as long as all the others together.
SLOW = pytest.param("Bulyan", marks=pytest.mark.long)


@pytest.mark.parametrize("name", ["FedMedian", "FedAdam", "Krum", SLOW])
@pytest.mark.parametrize("attack", ["another shape inside", "NaN", "no model"])
def test_other_strategies_go_on_as_well(name: str, attack: str) -> None:
    node = hostile(ATTACKS[attack])
    strategy = Compressed(getattr(theirs, name)())
    found, _, _ = play(strategy, client(nearer, [compress()]), START, rounds=2, node=node)
    assert np.isfinite(found["w"]).all() and found["w"].any()


def test_what_no_reply_is_odd_in_is_flower_s_own_matter() -> None:
    node = Played(client(nearer, [compress()]), 4)

    def without(reply: Message) -> Message:
        content = {k: v for k, v in reply.content.items() if k != "metrics"}
        reply.content = RecordDict(content)
        return reply

    node.tamper = without
    with pytest.raises(InconsistentMessageReplies, match="exactly one MetricRecord"):
        play(Compressed(FedAvg()), client(nearer, [compress()]), START, rounds=1, node=node)


def test_numbers_of_other_kinds_and_masks_fit() -> None:
    """A client without compress() may train in float64, or count in float."""
    model = NORMED | {"mask": np.array([0.0, -np.inf], np.float32), "raw": np.zeros(2, "V2")}
    tensors = Tensors.of("arrays", model)
    assert plain.misfit(record_of(model), tensors, model) == ""
    other = model | {
        "w": np.asfortranarray(np.ones(SHAPE, np.float64)),
        "bn.num_batches_tracked": np.asarray(7.0),
    }
    assert plain.misfit(record_of(other), tensors, model) == ""
    spoilt = model | {"mask": np.array([np.nan, 0.0], np.float32)}
    assert "'mask': must stay finite where it was" in plain.misfit(
        record_of(spoilt), tensors, model
    )
    raw = model | {"raw": np.zeros(2, "V3")}
    assert "'raw': must be |V2 (2,), is |V3 (2,)" in plain.misfit(record_of(raw), tensors, model)
