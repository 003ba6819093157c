"""A Flower app of somebody else's, played in this process with really serialised messages."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlite.flower import wire
from simulations.engines import Serial
from simulations.grid import SimulationGrid
from simulations.node import FIRST_NODE, Node

Arrays = dict[str, NDArray[Any]]
Change = Callable[[Arrays, int, int], Arrays]


class Played(Node):
    """Nodes that run a ClientApp of the test's own; `seen` has all bytes by (round, node)."""

    def __init__(self, app: ClientApp, sites: int) -> None:
        self._app = app
        self._contexts = {
            FIRST_NODE + index: Context(
                run_id=7,
                node_id=FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": sites},
                state=RecordDict(),
                run_config={},
            )
            for index in range(sites)
        }
        self.down: list[int] = []
        self.up: list[int] = []
        self.tamper: Callable[[Message], Message] = lambda reply: reply

    def handle(self, node: int, data: bytes) -> bytes:
        message = wire.from_bytes(data)
        self.down.append(len(data))
        try:
            reply: Message = self._app(message, self._contexts[node])
        except Exception as error:
            reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
        out = wire.to_bytes(self.tamper(reply))
        self.up.append(len(out))
        return out


def client(change: Change, mods: list[Mod], train_mods: list[Mod] | None = None) -> ClientApp:
    """Return an app whose training is `change(arrays, round, partition)`.

    Flower's mods for privacy are `train_mods`: to a reply to evaluate they reply themselves.
    """
    app = ClientApp(mods=mods)

    @app.train(mods=train_mods)
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        arrays = {name: array.numpy() for name, array in record.items()}
        partition = int(context.node_config["partition-id"])
        new = change(arrays, int(config["server-round"]), partition)
        metrics = MetricRecord({"num-examples": 10 + partition, "loss": 0.5})
        content = RecordDict({"arrays": record_of(new), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        assert isinstance(record, ArrayRecord)
        total = float(sum(array.numpy().astype(float).sum() for array in record.values()))
        metrics = MetricRecord({"num-examples": 1, "total": total})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def record_of(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def play(
    strategy: Strategy,
    app: ClientApp,
    model: Arrays,
    *,
    rounds: int = 3,
    sites: int = 4,
    node: Played | None = None,
) -> tuple[Arrays, Played, Any]:
    """Return the last model, the nodes and Flower's own result."""
    node = node or Played(app, sites)
    # Flower draws the order of its clients, and so of its sums.
    random.seed(1)
    grid = SimulationGrid(7, sites, Serial(node))
    result = strategy.start(grid, record_of(model), num_rounds=rounds)
    return {name: array.numpy() for name, array in result.arrays.items()}, node, result


RNG = np.random.default_rng(0)
GOAL = {"w": RNG.normal(size=(60, 100)).astype(np.float32), "b": np.ones(60, np.float32)}
START: Arrays = {"w": np.zeros((60, 100), np.float32), "b": np.zeros(60, np.float32)}
NORMED: Arrays = START | {
    "bn.running_var": np.ones(8, np.float32),
    "bn.num_batches_tracked": np.asarray(0),
}


def nearer(arrays: Arrays, number: int, partition: int) -> Arrays:
    """Train: half of the way to the goal, each client a little beside it."""
    out = dict(arrays)
    for name, goal in GOAL.items():
        beside = np.float32(0.01) * np.float32(partition**2 - 3)
        out[name] = arrays[name] + np.float32(0.5) * (goal + beside - arrays[name])
    if "bn.running_var" in arrays:
        out["bn.running_var"] = arrays["bn.running_var"] * np.float32(1.1 + partition / 10)
        out["bn.num_batches_tracked"] = arrays["bn.num_batches_tracked"] + np.asarray(7)
    return out
