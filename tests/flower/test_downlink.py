"""Differences on the way down: what clients remember, and what happens when they do not.

Covers fedlite/flower/broadcast.py, fedlite/flower/replica.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg

from fedlite.flower import Compressed, compress, frames, replica, wire
from fedlite.flower.broadcast import Broadcast
from fedlite.flower.offer import Offer
from fedlite.flower.tensors import Tensors, read, write
from fedlite.scenario.keys import Link
from simulations.node import FIRST_NODE
from tests.flower.federation import Arrays, Played, client, play

RNG = np.random.default_rng(0)
# Few of many values move: what differences are good at.
GOAL = np.zeros((60, 100), np.float32)
GOAL.reshape(-1)[RNG.permutation(6000)[:300]] = 1.0
START: Arrays = {
    "w": np.zeros((60, 100), np.float32),
    "bn.running_var": np.ones(4, np.float32),
    "n": np.asarray(0),
}


def nearer(arrays: Arrays, number: int, partition: int) -> Arrays:
    return {
        "w": arrays["w"] + np.float32(0.5) * (GOAL - arrays["w"]),
        "bn.running_var": arrays["bn.running_var"] * 2,
        "n": arrays["n"] + np.asarray(1),
    }


def sparse(**more: Any) -> FedAvg:
    return FedAvg(**{"min_train_nodes": 2, "fraction_evaluate": 0.0, **more})


def test_differences_follow_the_model_in_few_bytes() -> None:
    app = client(nearer, [compress()])
    ours, node, _ = play(
        Compressed(sparse(), compressor="dense", downlink=True), app, START, rounds=12
    )
    assert np.abs(ours["w"] - GOAL).max() < 0.02
    assert ours["bn.running_var"][0] == 2.0**12 and ours["n"] == 12
    first, later = node.down[:4], node.down[4:]
    assert min(first) > 4 * 6000
    assert max(later) < 4 * 6000 / 10
    # The server's model is not what clients have, which follows it.
    held = node._contexts[FIRST_NODE].state["fedlite.replica"]
    assert isinstance(held, ArrayRecord)
    assert read(held)["n"] == 11


def test_evaluation_is_of_what_clients_have_and_costs_no_second_difference() -> None:
    app = client(nearer, [compress()])
    strategy = Compressed(FedAvg(), compressor="dense", downlink=True)
    ours, node, result = play(strategy, app, START, rounds=4)
    # Four trainings with the whole model, then evaluate, train, evaluate, ...
    by_step = [max(node.down[i : i + 4]) for i in range(0, 32, 4)]
    assert by_step[0] > 4 * 6000 and max(by_step[1:]) < 4 * 6000 / 10
    trained, evaluated = by_step[2::2], by_step[1::2]
    assert max(trained) < min(evaluated), "a training after an evaluation needs no difference"
    total = result.evaluate_metrics_clientapp[4]["total"]
    exact = sum(float(array.sum()) for array in ours.values())
    assert total == pytest.approx(exact, rel=0.1)


def test_those_that_were_not_asked_get_a_chain_or_the_whole() -> None:
    app = client(nearer, [compress()])
    strategy = Compressed(sparse(fraction_train=0.5), compressor="dense", downlink=True)
    ours, node, _ = play(strategy, app, START, rounds=12, sites=6)
    assert np.abs(ours["w"] - GOAL).max() < 0.02
    assert sum(size > 4 * 6000 for size in node.down) == 6


def test_a_client_that_lost_its_model_gets_the_whole_in_the_same_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = client(nearer, [compress()])
    node = Played(app, 4)
    train = node.handle

    def forgetful(number: int, data: bytes) -> bytes:
        message = wire.from_bytes(data)
        state = node._contexts[number].state
        if "fedlite.replica" in state and len(node.down) == 9:
            del state["fedlite.replica"]
        return train(number, wire.to_bytes(message))

    node.handle = forgetful  # type: ignore[method-assign]
    with caplog.at_level("INFO", "flwr"):
        ours, _, _ = play(
            Compressed(sparse(), compressor="dense", downlink=True), app, START, node=node, rounds=6
        )
    assert "1 clients get the whole model, which they lost" in caplog.text
    assert caplog.text.count("Received 4 results and 0 failures") == 6
    assert ours["n"] == 6 and ours["bn.running_var"][0] == 64.0
    assert len(node.down) == 25 and sum(size > 4 * 6000 for size in node.down) == 5


def test_clients_without_it_get_whole_models_for_ever() -> None:
    ours, node, _ = play(Compressed(sparse(), downlink=True), client(nearer, []), START)
    plain, _, _ = play(sparse(), client(nearer, []), START)
    np.testing.assert_array_equal(ours["w"], plain["w"])
    assert min(node.down) > 4 * 6000


def test_an_adaptive_strategy_works_on_its_own_model() -> None:
    def strategy() -> FedAdam:
        return FedAdam(fraction_evaluate=0.0, eta=0.05, tau=0.1)

    plain, _, _ = play(strategy(), client(nearer, []), START, rounds=10)
    ours, _, _ = play(
        Compressed(strategy(), compressor="dense", downlink=True),
        client(nearer, [compress()]),
        START,
        rounds=10,
    )
    step = plain["w"]
    assert np.linalg.norm(ours["w"] - step) < 0.15 * np.linalg.norm(step)


def told(broadcast: Broadcast) -> Offer:
    link = Link("dense", error_feedback=False)
    return Offer(1, 1, 0, link, (), 0, broadcast.version, broadcast.digest.hex())


def walk(broadcast: Broadcast, models: list[Arrays]) -> None:
    for model in models:
        broadcast.advance("arrays", model, 7)


def steps(count: int) -> list[Arrays]:
    models = [START]
    for _ in range(count - 1):
        models.append(nearer(models[-1], 0, 0))
    return models


def question(record: Any) -> Message:
    wire.identify(7, 0)
    return Message(RecordDict({"arrays": record}), 3, "train")


def restored(record: Any, context: Context, offer: Offer) -> RecordDict | None:
    message = question(record)
    return replica.restore(message.content, offer, message, context)


def fresh() -> Context:
    return Context(7, 3, {}, RecordDict(), {})


def test_a_chain_leads_to_what_the_server_thinks_that_clients_have() -> None:
    broadcast, context = Broadcast(0, ()), fresh()
    models = steps(5)
    walk(broadcast, models[:1])
    first = broadcast.digest
    assert restored(broadcast.whole(), context, told(broadcast)) is not None
    walk(broadcast, models[1:])
    chain = broadcast.chain(first)
    assert chain is not None and len(replica.unchain(chain)) == 4
    content = restored(frames.to_record(chain), context, told(broadcast))
    assert content is not None
    found = read(content["arrays"])  # type: ignore[arg-type]
    for name, array in broadcast.arrays.items():
        assert found[name].tobytes() == array.tobytes()
    # The same model again is no new version, and needs no frame.
    walk(broadcast, models[-1:])
    assert broadcast.version == 5
    assert replica.unchain(broadcast.chain(broadcast.digest) or b"") == []


def test_a_chain_is_never_longer_than_the_whole_model() -> None:
    broadcast = Broadcast(0, ())
    rng = np.random.default_rng(1)
    for _ in range(60):
        broadcast.advance("arrays", {"w": rng.normal(size=5000).astype(np.float32)}, 7)
        assert sum(map(len, broadcast._frames)) <= 4 * 5000
    assert broadcast.chain(b"unknown") is None and broadcast.chain(b"") is None
    assert len(broadcast._versions) <= len(broadcast._frames) + 1


def test_another_or_an_infinite_model_goes_out_whole() -> None:
    broadcast = Broadcast(0, ())
    walk(broadcast, steps(2))
    held = broadcast.digest
    broadcast.advance("arrays", {"w": np.zeros((3, 3), np.float32)}, 7)
    assert broadcast.chain(held) is None and broadcast.whole()["w"].shape == (3, 3)
    held = broadcast.digest
    broadcast.advance("arrays", {"w": np.full((3, 3), np.nan, np.float32)}, 7)
    assert broadcast.chain(held) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda chain: b"",
        lambda chain: chain[:-1],
        lambda chain: chain + b"\0",
        lambda chain: chain[:50] + b"\xff" + chain[51:],
        lambda chain: b"\xff\xff\xff\xff" + chain[4:],
        lambda chain: replica.chain([]),
        lambda chain: replica.chain(replica.unchain(chain)[1:]),
        lambda chain: replica.chain(replica.unchain(chain)[::-1]),
    ],
)
def test_frames_that_do_not_lead_there_are_not_followed(spoil: Any) -> None:
    broadcast, context = Broadcast(0, ()), fresh()
    walk(broadcast, steps(1))
    first = broadcast.digest
    restored(broadcast.whole(), context, told(broadcast))
    walk(broadcast, steps(3)[1:])
    chain = broadcast.chain(first) or b""
    held = context.state["fedlite.replica"]
    assert restored(frames.to_record(spoil(chain)), context, told(broadcast)) is None
    assert context.state["fedlite.replica"] == held
    assert restored(frames.to_record(chain), context, told(broadcast)) is not None


def test_a_memory_that_was_changed_is_found() -> None:
    broadcast, context = Broadcast(0, ()), fresh()
    walk(broadcast, steps(1))
    first = broadcast.digest
    restored(broadcast.whole(), context, told(broadcast))
    walk(broadcast, steps(2)[1:])
    chain = frames.to_record(broadcast.chain(first) or b"")
    for wrong in (write({"w": np.zeros(3)}), ConfigRecord({"a": 1}), None):
        state = context.state.copy()
        if wrong is None:
            del state["fedlite.replica"]
        else:
            state["fedlite.replica"] = wrong
        assert restored(chain, Context(7, 3, {}, state, {}), told(broadcast)) is None


def test_the_app_may_take_its_arrays_out_of_the_message() -> None:
    def greedy(arrays: Arrays, number: int, partition: int) -> Arrays:
        return nearer(arrays, number, partition)

    app = client(greedy, [compress()])
    inner = app._registered_funcs["train.default"]

    def taking(message: Message, context: Context) -> Message:
        reply = inner(message, context)
        record = message.content["arrays"]
        for name in list(record):
            del record[name]
        return reply

    app._registered_funcs["train.default"] = taking
    _, node, _ = play(Compressed(sparse(), downlink=True), app, START, rounds=3)
    assert max(node.down[4:]) < 4 * 6000 / 10


def test_an_acknowledgement_is_taken_out_again() -> None:
    broadcast = Broadcast(0, ())
    walk(broadcast, steps(1))
    content = RecordDict({"m": ConfigRecord({"a": 1})})
    with_it = replica.acknowledged(content, told(broadcast))
    assert replica.take_acknowledgement(with_it) == (content, broadcast.digest)
    assert replica.take_acknowledgement(content) == (content, b"")
    text = RecordDict({"fedlite": ConfigRecord({"fedlite.held": "text"})})
    assert replica.take_acknowledgement(text) == (RecordDict(), b"")
    assert Tensors.of("arrays", START).size == 6000
