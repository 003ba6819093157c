"""What adapting a pretrained transformer costs beside a plain loop with peft: time, and memory.

`python -m simulations.benchmarks.lora_cost` trains the adapters of `sentiment-lora` in three ways:
a site's steps, the same steps with every sentence protected, and the loop that anybody would write
with transformers, peft and AdamW, on the same batches, padded to the longest of each. Processor
time of one thread, medians of turns taken one after the other. Then it measures how much memory
the processes of a simulation of four sites hold together, a page that they share counted once (the
PSS of Linux), beside one process that only trains, in the plain way.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite import plan as plans
from fedlite.data.bases import BASES
from fedlite.privacy import RecordMechanism
from fedlite.scenario import Scenario, load
from fedlite.training import Learner
from fedlite.training.share import settle_process
from server.summary import machine
from simulations.run import scenario_path, simulate

BATCH, TURNS, QUICK_TURNS, STEPS = 32, 9, 3, 4
# Of the private steps: as many sentences a step, though each has a gradient of its own.
SIGMA, SEED = 1.0, 1
MEMORY = ("federation.rounds=1", "training.steps=2", "federation.evaluate_every=0")


class Plain(nn.Module):
    """The model of somebody who has never heard of fedlite: peft, a mean, and a linear head."""

    def __init__(self, scenario: Scenario) -> None:
        """Load the base of the scenario, and put its adapters on."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        options = {k: v for k, v in load_options(scenario).items() if k in ("layers", "rank")}
        rank, layers = int(options.get("rank", 8)), options.get("layers")
        super().__init__()
        base = AutoModel.from_pretrained(
            BASES["minilm"].folder(),
            local_files_only=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["query", "value"],
            layers_to_transform=[number - 1 for number in layers] if layers else None,
        )
        self.network = get_peft_model(base, config)
        self.head = nn.Linear(base.config.hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [n, 2, length] to logits [n, 2], cut to the longest of the batch."""
        length = int(tokens[:, 1].sum(1).max())
        ids, mask = tokens[:, 0, :length], tokens[:, 1, :length]
        states = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(2).float()
        answer: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return answer


def load_options(scenario: Scenario) -> dict[str, Any]:
    """Return the model's options."""
    from fedlite.settings import read_options

    return dict(read_options(scenario.model.options))


def plain_steps(
    model: Plain, inputs: Tensor, labels: Tensor, rate: float, steps: int, batch: int
) -> None:
    """Train by AdamW on the batches that site 1 of the scenario takes in round 1."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    order = torch.from_numpy(np.random.default_rng([SEED, 1, 1]).permutation(len(labels)))
    model.train()
    for rows in torch.split(order, batch)[:steps]:
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(inputs[rows]), labels[rows]))
        optimizer.step()


def times(scenario: Scenario, turns: int) -> dict[str, Any]:
    """Return processor seconds a step of each way, and what the plain one takes of ours."""
    settle_process()
    whole, _, sites = plans.simulated(scenario)
    data = sites[0].train.take(np.arange(BATCH * STEPS))
    learner, plain = Learner(whole, data), Plain(scenario)
    one = replace(scenario, training=replace(scenario.training, steps=1))
    careful, rate = Learner(plans.simulated(one)[0], data), whole.learning_rate(1)
    mechanism = RecordMechanism(1.0, SIGMA, 1.0, steps=100, expected_batch=BATCH * STEPS)

    def private() -> None:
        careful.share(careful.initial, 1, 1, mechanism)

    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "plain": (
            lambda: plain_steps(plain, learner.inputs, learner.labels, rate, STEPS, BATCH),
            STEPS,
        ),
        "fedlite": (
            lambda: learner.share(learner.initial, 1, 1, None),
            whole.scenario.training.steps,
        ),
        # A private step takes as many sentences as all the others together.
        "fedlite, private": (private, STEPS),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, (run, steps) in ways.items():
            started = time.process_time()
            run()
            # The first turn warms up.
            if turn:
                found[name].append((time.process_time() - started) / steps)
    seconds = {name: median(values) for name, values in found.items()}
    return {
        "seconds_a_batch": seconds,
        "plain / fedlite": seconds["plain"] / seconds["fedlite"],
        "private / fedlite": seconds["fedlite, private"] / seconds["fedlite"],
    }


def alone(settings: tuple[str, ...]) -> None:
    """Train plainly in this process as many steps and texts as four sites of the scenario."""
    settle_process()
    scenario = load(scenario_path("sentiment-lora"), settings)
    _, _, sites = plans.simulated(scenario)
    plain, training = Plain(scenario), scenario.training
    for _ in range(scenario.federation.rounds):
        for site in sites:
            x, y = torch.from_numpy(site.train.x), torch.from_numpy(site.train.y)
            plain_steps(plain, x, y, training.learning_rate, training.steps, training.batch_size)


def pool(settings: tuple[str, ...]) -> None:
    """Simulate the scenario by a worker a core."""
    _simulated(settings, "pool")


def serial(settings: tuple[str, ...]) -> None:
    """Simulate the scenario in this process."""
    _simulated(settings, "serial")


def _simulated(settings: tuple[str, ...], engine: str) -> None:
    scenario = load(scenario_path("sentiment-lora"), settings)
    with tempfile.TemporaryDirectory(prefix="fedlite-bench-") as folder:
        simulate(scenario, Path(folder) / "run", engine=engine, quiet=True)


def peak(work: Callable[[tuple[str, ...]], None], settings: tuple[str, ...]) -> float:
    """Return the most bytes that a process doing `work`, and those it starts, hold together."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(settings,))
    process.start()
    most = 0
    while process.is_alive():
        most = max(most, sum(pss(number) for number in tree(process.pid or 0)))
        time.sleep(0.1)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__}: ended with {process.exitcode}")
    return most


def tree(root: int) -> list[int]:
    """Return a process and all that come from it."""
    found = [root]
    for number in found:
        for file in Path(f"/proc/{number}/task").glob("*/children"):
            try:
                found += [int(word) for word in file.read_text().split()]
            except OSError:
                continue
    return found


def pss(number: int) -> int:
    """Return the bytes of a process, those that it shares in equal parts; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--only", choices=("time", "memory"), help="leave the other out")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    arguments = parser.parse_args()
    settings = tuple(arguments.set)
    own = (
        f"federation.seed={SEED}",
        f"training.batch_size={BATCH}",
        f"training.steps={STEPS}",
        "training.device=cpu",
    )
    scenario = load(scenario_path("sentiment-lora"), (*own, *settings))
    found: dict[str, Any] = {}
    if arguments.only != "memory":
        found |= times(scenario, QUICK_TURNS if arguments.quick else TURNS)
    if arguments.only != "time":
        # In the same order as anybody's: what one leaves in the page cache serves the other.
        held = {one.__name__: peak(one, (*MEMORY, *settings)) for one in (alone, serial, pool)}
        found["peak_bytes"] = held
        found["serial / alone"] = held["serial"] / held["alone"]
        found["pool / alone"] = held["pool"] / held["alone"]
    print(f"{os.cpu_count()} cores, {machine()}\n{json.dumps(found, indent=2)}")
    if arguments.json:
        row = {
            "what": "adapters beside a plain loop with peft",
            "parameters": {"scenario": "sentiment-lora", "set": settings},
            "units": {"seconds_a_batch": "s", "peak_bytes": "bytes"},
            "figures": found,
        }
        arguments.json.write_text(json.dumps([row], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
