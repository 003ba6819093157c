"""The server's line: every strategy of Flower, with what it would have aggregated.

Covers fedlite/flower/asking.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.server import strategy as legacy
from flwr.serverapp import strategy as theirs
from flwr.serverapp.strategy import (
    FedAvg,
    Strategy,
)

from fedlite.flower import Compressed, compress
from fedlite.flower.strategy import as_at_first
from simulations.engines import Serial
from simulations.grid import SimulationGrid
from tests.flower.federation import (
    GOAL,
    NORMED,
    START,
    Arrays,
    Played,
    client,
    nearer,
    play,
    record_of,
)

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    name: getattr(theirs, name)
    for name in ("FedAvg", "FedAvgM", "FedMedian", "FedTrimmedAvg", "FedAdam", "FedYogi")
} | {
    "FedAdagrad": theirs.FedAdagrad,
    "Krum": lambda: theirs.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: theirs.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
    "Bulyan": lambda: theirs.Bulyan(num_malicious_nodes=0),
    "FedProx": lambda: theirs.FedProx(proximal_mu=0.1),
    "QFedAvg": lambda: theirs.QFedAvg(client_learning_rate=0.5, q=0.1, train_loss_key="loss"),
}


def model_for(name: str) -> Arrays:
    # QFedAvg itself stops at integers.
    return START if name == "QFedAvg" else NORMED


@pytest.mark.long
@pytest.mark.parametrize("name", STRATEGIES)
def test_with_dense_frames_every_strategy_ends_where_it_ends_without(name: str) -> None:
    model = model_for(name)
    plain, _, _ = play(STRATEGIES[name](), client(nearer, []), model)
    strategy = Compressed(STRATEGIES[name](), compressor="dense")
    ours, _, _ = play(strategy, client(nearer, [compress()]), model)
    assert list(ours) == list(plain)
    for array, first in zip(ours.values(), model.values(), strict=True):
        assert array.dtype == first.dtype and array.shape == first.shape
    for key in START:
        np.testing.assert_allclose(ours[key], plain[key], rtol=1e-4, atol=1e-5)
    if model is START:
        return
    # Sums of other roundings: as they are up to the last rounding to the first kind.
    np.testing.assert_allclose(ours["bn.running_var"], plain["bn.running_var"], rtol=1e-5)
    tracked = ours["bn.num_batches_tracked"], plain["bn.num_batches_tracked"]
    assert abs(float(tracked[0]) - float(tracked[1])) <= 1.5


@pytest.mark.long
@pytest.mark.parametrize("name", STRATEGIES)
def test_small_messages_come_near(name: str) -> None:
    model = model_for(name)
    plain, dense, _ = play(STRATEGIES[name](), client(nearer, []), model, rounds=2)
    strategy = Compressed(STRATEGIES[name]())
    ours, small, _ = play(strategy, client(nearer, [compress()]), model, rounds=2)
    # Four clients are asked, so a tenth is sent; here the messages' heads weigh, too.
    assert sum(small.up[:4]) < sum(dense.up[:4]) / 15
    step = plain["w"] - START["w"]
    along = float(np.vdot(ours["w"], step) / np.vdot(step, step))
    assert 0.6 < along < 1.4
    # Krum's may choose another client.
    if model is NORMED and "rum" not in name:
        np.testing.assert_allclose(ours["bn.running_var"], plain["bn.running_var"], rtol=1e-5)


def test_statistics_are_the_clients_own_to_the_bit() -> None:
    def doubled(arrays: Arrays, number: int, partition: int) -> Arrays:
        return nearer(arrays, number, 0) | {"bn.running_var": arrays["bn.running_var"] * 2}

    strategy = Compressed(FedAvg(), compressor="eden")
    ours, _, _ = play(strategy, client(doubled, [compress()]), NORMED, rounds=3)
    np.testing.assert_array_equal(ours["bn.running_var"], np.full(8, 8.0, np.float32))
    assert ours["bn.num_batches_tracked"] == 21
    assert ours["bn.num_batches_tracked"].dtype == np.int64


def test_kinds_are_those_of_the_first_model() -> None:
    first = record_of({"i": np.asarray(3), "f": np.ones(2, np.float32), "e": np.ones(1)})
    later = record_of(
        {
            "i": np.asarray(35.7),
            "f": np.full(2, 1e300),
            "e": np.ones(2, np.float32),
            "x": np.ones(1),
        }
    )
    found = {name: array.numpy() for name, array in as_at_first(later, first).items()}
    assert found["i"] == 36 and found["i"].dtype == np.int64
    assert found["f"].dtype == np.float32
    # Another shape is another tensor; what cannot be an integer stays what it is.
    assert found["e"].dtype == np.float32 and found["x"].dtype == np.float64
    lost = as_at_first(record_of({"i": np.asarray(np.nan)}), first)
    assert np.isnan(lost["i"].numpy())


def test_a_server_without_it_and_clients_with_it_do_what_flower_does() -> None:
    plain, dense, _ = play(FedAvg(), client(nearer, []), NORMED)
    ours, same, _ = play(FedAvg(), client(nearer, [compress()]), NORMED)
    for key, array in plain.items():
        np.testing.assert_array_equal(ours[key], array)
    assert same.up == dense.up


def test_clients_without_it_do_what_flower_does_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, _, _ = play(FedAvg(), client(nearer, []), NORMED)
    ours, _, _ = play(Compressed(FedAvg()), client(nearer, []), NORMED)
    for key in START:
        np.testing.assert_array_equal(ours[key], plain[key])
    told = "replies came as Flower's own; their clients need compress()"
    assert caplog.text.count(told) == 1


def test_a_wrapper_around_it_is_refused_with_the_mend() -> None:
    """It would clip and noise what it sees: no arrays, so that nothing would be clipped."""
    outer = theirs.DifferentialPrivacyServerSideFixedClipping(Compressed(FedAvg()), 1.0, 5.0, 4)
    with pytest.raises(ValueError, match=r"write Compressed\(Wrapper\(FedAvg\(...\)\)\)"):
        play(outer, client(nearer, [compress()]), START)


class Stopping(FedAvg):
    """A strategy with a start and settings of its own, as examples of Flower have them."""

    best = 0.0

    def say(self, text: str) -> str:
        return text + "!"

    def start(self, grid: Any, initial_arrays: ArrayRecord, num_rounds: int = 3) -> Any:
        self.best = 1.0
        return super().start(grid, initial_arrays, num_rounds, timeout=60)


def test_a_strategy_s_own_start_and_methods_work() -> None:
    inner = Stopping()
    strategy = Compressed(inner, compressor="dense")
    assert strategy.say("a") == "a!" and strategy.fraction_train == 1.0
    ours, node, _ = play(strategy, client(nearer, [compress()]), START)
    assert strategy.best == inner.best == 1.0
    assert max(node.up[:4]) < 4 * 6060 + 400
    assert "configure_train" not in vars(inner)
    again, _, _ = play(strategy, client(nearer, [compress()]), START)
    np.testing.assert_array_equal(again["w"], ours["w"])
    with pytest.raises(AttributeError, match="no_such"):
        _ = strategy.no_such


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"compressor": "topk"}, "Compressed.compressor: must be one of dense, eden, randk"),
        ({"compressor": "mine.py:make"}, "Compressed.compressor: must be one of"),
        ({"density": 1.5}, "Compressed.density: must be from 0.0 to 1.0, got 1.5"),
        ({"density": "much"}, "Compressed.density: must be a number, got 'much'"),
        ({"bits": 0, "compressor": "eden"}, "Compressed.bits: must be from 1 to 8"),
        ({"values": "fp8", "compressor": "dense"}, "Compressed.values"),
        ({"exact": "bn*"}, "Compressed.exact: must be a list of texts"),
        ({"exact": [3]}, "Compressed.exact: must be a list of texts"),
        ({"seed": -1}, "Compressed.seed: must be from 0"),
        ({"seed": 1.0}, "Compressed.seed: must be from 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Compressed(FedAvg(), **arguments)


@pytest.mark.parametrize("wrong", [None, FedAvg, Compressed(FedAvg()), legacy.FedAvg()])
def test_what_is_no_strategy_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"write Compressed\(FedAvg\(...\)\)"):
        Compressed(wrong)


def spoil(reply: Message) -> Message:
    """Damage the frame of node 1001."""
    if reply.metadata.src_node_id == 1001 and reply.has_content():
        for key, record in reply.content.items():
            if isinstance(record, ConfigRecord):
                blob = record["fedlite.frame"]
                assert isinstance(blob, bytes)
                reply.content[key] = ConfigRecord({"fedlite.frame": blob[:-1]})
    return reply


@pytest.mark.parametrize("make", [FedAvg, theirs.FedMedian, lambda: theirs.Krum()])
def test_a_bad_frame_costs_its_reply_and_is_named(
    make: Callable[[], Strategy], caplog: pytest.LogCaptureFixture
) -> None:
    app = client(nearer, [compress()])
    node = Played(app, 4)
    node.tamper = spoil
    with caplog.at_level("INFO", "flwr"):
        ours, _, _ = play(Compressed(make(), compressor="eden", bits=8), app, START, node=node)
    assert caplog.text.count("Received 3 results and 1 failures") == 3
    assert "Received error in reply from node 1001: fedlite: the update was dropped: frame CRC" in (
        caplog.text
    )
    assert np.abs(ours["w"] - GOAL["w"]).mean() < 0.2


def test_frames_of_an_earlier_round_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = client(nearer, [compress()])
    node, kept = Played(app, 4), dict[int, RecordDict]()

    def replay(reply: Message) -> Message:
        first = kept.setdefault(reply.metadata.src_node_id, reply.content)
        if "arrays" in reply.content and reply.metadata.src_node_id == 1002:
            reply.content = first
        return reply

    node.tamper = replay
    with caplog.at_level("INFO", "flwr"):
        play(Compressed(FedAvg(fraction_evaluate=0.0)), app, START, node=node)
    assert caplog.text.count("it is late, early or replayed") == 2


def test_a_client_of_another_form_is_dropped_where_the_others_fit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def odd(arrays: Arrays, number: int, partition: int) -> Arrays:
        new = nearer(arrays, number, partition)
        return new | {"w": new["w"].T} if partition == 3 else new

    with caplog.at_level("INFO", "flwr"):
        ours, _, _ = play(Compressed(FedAvg()), client(odd, [compress()]), START)
    assert ours["w"].shape == (60, 100)
    assert caplog.text.count("its tensors are not those of the model that was sent") == 3


def test_updates_that_overflow_are_failures_of_their_client() -> None:
    def diverged(arrays: Arrays, number: int, partition: int) -> Arrays:
        new = nearer(arrays, number, partition)
        return (
            {name: array * np.float32(np.inf) for name, array in new.items()} if partition else new
        )

    ours, _, _ = play(Compressed(FedAvg()), client(diverged, [compress()]), START)
    assert np.isfinite(ours["w"]).all() and ours["w"].any()


@pytest.mark.parametrize(
    "model",
    [
        {"w": np.zeros(1, np.float32)},
        {"w": np.zeros((), np.float32), "b": np.zeros(3, np.float32)},
        {"w": np.zeros((0, 4), np.float32), "b": np.zeros(5000, np.float16)},
        {"w": np.zeros(5000, np.float64), "i": np.arange(3)},
        {"i": np.arange(3)},
        {"b": np.zeros(3, np.dtype("V2")), "w": np.zeros(5000, ">f4")},
    ],
    ids=["one value", "scalar", "empty tensor", "float64", "integers", "bfloat16"],
)
def test_odd_models_go_through(model: Arrays) -> None:
    def step(arrays: Arrays, number: int, partition: int) -> Arrays:
        return {
            name: array + np.ones(array.shape, array.dtype) if array.dtype.kind in "fi" else array
            for name, array in arrays.items()
        }

    numeric = {name: array for name, array in model.items() if array.dtype.kind != "V"}
    ours, _, _ = play(Compressed(FedAvg()), client(step, [compress()]), numeric)
    for name, array in numeric.items():
        assert ours[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert abs(np.mean(ours[name] - array) - 3 if array.size else 0) < 0.1
    if numeric.keys() != model.keys():
        # FedAvg cannot average such a tensor; the frame carries it all the same.
        from fedlite.flower.tensors import Tensors

        assert [t.exact for t in Tensors.of("arrays", model).entries] == [True, False]


def test_a_reply_without_arrays_is_the_strategy_s_own_matter() -> None:
    class Metrics(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            found = [m for m in replies if "metrics" in m.content]
            return None, MetricRecord({"replies": len(found)})

    def nothing(arrays: Arrays, number: int, partition: int) -> Arrays:
        return arrays

    app = client(nothing, [compress()])
    node = Played(app, 4)
    result = Compressed(Metrics()).start(SimulationGrid(7, 4, Serial(node)), record_of(START), 1)
    assert result.train_metrics_clientapp[1] == MetricRecord({"replies": 4})


def test_a_client_that_is_asked_twice_sends_one_frame() -> None:
    class Twice(FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            messages = list(super().configure_train(server_round, arrays, config, grid))
            first = messages[0]
            again = Message(first.content, first.metadata.dst_node_id, "train")
            return [*messages, again]

    app = client(nearer, [compress()])
    ours, node, _ = play(Compressed(Twice(fraction_evaluate=0.0)), app, START, rounds=1)
    assert sum(size > 4 * 6000 for size in node.up) == 1 and len(node.up) == 5
    assert np.isfinite(ours["w"]).all() and ours["w"].any()
