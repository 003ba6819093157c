"""What two lines save in a Flower app, and what they cost: plain Flower beside it, same seeds.

Run `python -m simulations.benchmarks.dropin [--quick] [--json FILE]` in a checkout. It plays the
app in `examples/flower_app`: a small network on Fashion-MNIST, ten clients of which half are asked
in a round. Bytes are those of all objects that Flower would send for a message to or from a
training. Accuracy is the mean over the last five rounds, as it goes up and down from one to the
next. Paired: a seed fixes the first model, who is asked, and the order of batches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flowers
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedlite.flower import Compressed, wire
from server.summary import machine
from simulations.engines import Serial
from simulations.grid import SimulationGrid
from simulations.node import FIRST_NODE, Node

APP = Path(__file__).resolve().parents[2] / "examples" / "flower_app"
CLIENTS = 10
_RUN, _LAST = 7, 5
_ASKED: dict[str, Any] = {"fraction_train": 0.5, "fraction_evaluate": 0.0}

PLAIN, CAREFUL, CLIPPED = "plain Flower", "eden 4 bits", "clipped FedAvg"


def _private(strategy: Strategy) -> Strategy:
    # The noise of so small a multiplier is none: what is measured is the clipping.
    return flowers.DifferentialPrivacyServerSideFixedClipping(strategy, 1e-3, 3.0, 5)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(**_ASKED),
    "FedAvgM": lambda: flowers.FedAvgM(server_momentum=0.5, **_ASKED),
    "FedAdam": lambda: flowers.FedAdam(eta=0.01, tau=1e-3, **_ASKED),
    "FedMedian": lambda: flowers.FedMedian(**_ASKED),
    "Krum": lambda: flowers.Krum(num_malicious_nodes=1, **_ASKED),
    CLIPPED: lambda: _private(FedAvg(**_ASKED)),
}
METHODS: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    "recommended": {},
    "rotated 3 %": {"compressor": "rotated-topk", "density": 0.03},
    "eden 1 bit": {"compressor": "eden"},
    CAREFUL: {"compressor": "eden", "bits": 4},
    "recommended, downlink": {"downlink": True},
}


@dataclass(frozen=True)
class Job:
    """One training run; `records`: of the training pictures, by all clients together."""

    strategy: str
    method: str
    batch_norm: bool
    seed: int
    rounds: int
    records: int
    data: str = "fashion-mnist"


class AppNodes(Node):
    """Clients that run an app, and how many bytes Flower would have sent to them and back."""

    def __init__(self, app: ClientApp, config: dict[str, Any]) -> None:
        """Give each client its part of the data."""
        self._app = app
        self._contexts = {
            FIRST_NODE + index: Context(
                run_id=_RUN,
                node_id=FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": CLIENTS},
                state=RecordDict(),
                run_config=dict(config),
            )
            for index in range(CLIENTS)
        }
        self.down: list[int] = []
        self.up: list[int] = []

    def handle(self, node: int, data: bytes) -> bytes:
        """Return the serialised reply of a client to a serialised message."""
        message = wire.from_bytes(data)
        self.down.append(size(message))
        reply: Message = self._app(message, self._contexts[node])
        self.up.append(size(reply))
        return wire.to_bytes(reply)


def size(message: Message) -> int:
    """Return the bytes of all objects that Flower sends for a message."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def run(job: Job) -> dict[str, Any]:
    """Return accuracy (share of the test set), bytes of a message and seconds of one run."""
    import torch

    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    task, app = _app(job.records)
    loader = task.load_test_data(job.data)

    def accuracy(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        if number <= max(0, job.rounds - _LAST):
            return None
        model = task.Net(job.batch_norm)
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": task.test(model, loader)[1]})

    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    random.seed(job.seed)
    config = {"batch-norm": job.batch_norm, "data": job.data, "batch-size": 32}
    nodes = AppNodes(app, config | {"local-epochs": 1, "learning-rate": 0.05})
    strategy, settings = STRATEGIES[job.strategy](), METHODS[job.method]
    if settings is not None:
        strategy = Compressed(strategy, **settings)
    first = ArrayRecord(task.Net(job.batch_norm).state_dict())
    begun = time.perf_counter()
    result = strategy.start(
        SimulationGrid(_RUN, CLIENTS, Serial(nodes)),
        first,
        num_rounds=job.rounds,
        evaluate_fn=accuracy,
    )
    return {
        "accuracy": mean(
            float(str(one["accuracy"])) for one in result.evaluate_metrics_serverapp.values()
        ),
        "up": mean(nodes.up),
        "down": mean(nodes.down),
        "seconds": time.perf_counter() - begun,
    }


def _app(records: int) -> tuple[Any, ClientApp]:
    """Return the example's modules, with pictures that are read once and cut to `records`."""
    if str(APP) not in sys.path:
        sys.path.insert(0, str(APP))
    task: Any = importlib.import_module("flower_app.task")
    client: Any = importlib.import_module("flower_app.client_app")
    if not hasattr(task, "all_pictures"):
        task.all_pictures = task.pictures
        kept: dict[tuple[str, int], Any] = {}

        def pictures(name: str) -> Any:
            if (name, records) not in kept:
                train, test = task.all_pictures(name)
                train.tensors = tuple(tensor[:records] for tensor in train.tensors)
                kept[name, records] = train, test
            return kept[name, records]

        task.pictures = pictures
    return task, client.app


def table(jobs: list[Job], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every setting: means over seeds, and points lost to plain Flower."""
    of = {(j.strategy, j.method, j.batch_norm, j.seed): f for j, f in zip(jobs, found, strict=True)}
    rows = []
    for strategy, method, norm in dict.fromkeys((j.strategy, j.method, j.batch_norm) for j in jobs):
        seeds = sorted({key[3] for key in of if key[:3] == (strategy, method, norm)})
        mine = [of[strategy, method, norm, seed] for seed in seeds]
        plain = [of[strategy, PLAIN, norm, seed] for seed in seeds]
        lost = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(plain, mine, strict=True)]
        rows.append(
            {
                "strategy": strategy,
                "method": method,
                "batch_norm": norm,
                "seeds": len(seeds),
                "accuracy": 100 * mean(one["accuracy"] for one in mine),
                "lost": mean(lost),
                "lost_sd": stdev(lost) if len(lost) > 1 else 0.0,
                **{key: mean(one[key] for one in mine) for key in ("up", "down", "seconds")},
                "up_ratio": mean(p["up"] for p in plain) / mean(one["up"] for one in mine),
                "down_ratio": mean(p["down"] for p in plain) / mean(one["down"] for one in mine),
            }
        )
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| strategy | BatchNorm | messages | seeds | accuracy | points lost | bytes up "
        "| times fewer | bytes down | times fewer |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        lost = "" if row["method"] == PLAIN else f"{row['lost']:+.2f}"
        if lost and row["seeds"] > 1:
            lost += f" ± {row['lost_sd']:.2f}"
        lines.append(
            f"| {row['strategy']} | {'yes' if row['batch_norm'] else 'no'} | {row['method']} "
            f"| {row['seeds']} | {row['accuracy']:.2f} | {lost} | {row['up']:,.0f} "
            f"| {row['up_ratio']:.1f} | {row['down']:,.0f} | {row['down_ratio']:.1f} |"
        )
    return "\n".join(lines)


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Return the runs: FedAvg by every method and seed, other strategies by two and one seed."""
    if arguments.quick:
        return [
            Job("FedAvg", method, norm, 1, 3, 3_000)
            for norm in (False, True)
            for method in (PLAIN, "recommended", "recommended, downlink")
        ]
    seeds = range(1, arguments.seeds + 1)
    methods = [method for method in METHODS if method != CAREFUL]
    jobs = [("FedAvg", m, norm, seed) for norm in (False, True) for m in methods for seed in seeds]
    for name in STRATEGIES:
        if name != "FedAvg":
            methods = [PLAIN, "recommended"] + [CAREFUL] * (name in ("Krum", CLIPPED))
            # Flower's own wrapper stops at BatchNorm's integers.
            jobs += [(name, method, name != CLIPPED, 1) for method in methods]
    return [Job(*one, arguments.rounds, arguments.records) for one in jobs]


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--records", type=int, default=12_000, help="of all clients together")
    parser.add_argument("--quick", action="store_true", help="FedAvg, 3 rounds, 3,000 pictures")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    jobs = plan(arguments)
    with multiprocessing.get_context("spawn").Pool(min(arguments.workers, len(jobs))) as pool:
        found = []
        for job, one in zip(jobs, pool.imap(run, jobs), strict=True):
            found.append(one)
            norm = ", BatchNorm" if job.batch_norm else ""
            print(
                f"{job.strategy}, {job.method}{norm}, seed {job.seed}: "
                f"{100 * one['accuracy']:.2f} %, {one['up']:,.0f} bytes up, "
                f"{one['down']:,.0f} down, {one['seconds']:.0f} s",
                flush=True,
            )
    rows = table(jobs, found)
    print(f"\n{jobs[0].rounds} rounds, {jobs[0].records:,} pictures, {machine()}\n\n{render(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
