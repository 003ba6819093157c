"""The engine benchmark's work in plain Flower: FedAvg over all clients, dense messages."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from simulations.benchmarks import engine_work as work

client = ClientApp()
server = ServerApp()


@lru_cache(maxsize=1)
def _records() -> tuple[Any, ...]:
    """Return the records of all clients, made once a process, as the other ways have them."""
    return work.records("cnn")


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one epoch on the client's fifty records."""
    torch.set_num_threads(1)
    at = int(context.node_config["partition-id"]) * work.RECORDS
    x, y, *_ = _records()
    inputs = torch.from_numpy(x[at : at + work.RECORDS])
    labels = torch.from_numpy(y[at : at + work.RECORDS])
    model = work.cnn(work.SHAPES["cnn"], work.CLASSES)
    (arrays,) = message.content.array_records.values()
    model.load_state_dict(arrays.to_torch_state_dict())
    work.epoch(model, inputs, labels, torch.randperm(work.RECORDS))
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": work.RECORDS}),
        }
    )
    return Message(content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds and write down how long each took."""
    ends = [time.monotonic()]

    def note(number: int, arrays: ArrayRecord) -> MetricRecord:
        if number:
            ends.append(time.monotonic())
        return MetricRecord({"round": number})

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=work.SITES)
    first = ArrayRecord(work.cnn(work.SHAPES["cnn"], work.CLASSES).state_dict())
    rounds = int(context.run_config["rounds"])
    strategy.start(grid, first, num_rounds=rounds, evaluate_fn=note)
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    Path(str(context.run_config["out"])).write_text(json.dumps(seconds), encoding="utf-8")
