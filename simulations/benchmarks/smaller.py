"""What each step that makes a deep branch smaller comes to alone, and what all come to joined.

`python -m simulations.benchmarks.smaller [--rounds N] [--quick] [--out DIR] [--json FILE]` trains
`vgg` on Fashion-MNIST at twenty sites, or takes the run in DIR, and prints for fewer channels, low
rank, integers and all of them joined: accuracy of the deep branch on the test set, bytes of its
tail, multiply-adds, and microseconds of one thread an input in batches of 256. At the end each step
is alone at about the bytes that the joined ones come to.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.evaluation import Trained
from fedlite.inference import graphs
from fedlite.inference.bundle import session
from fedlite.inference.graphs import needs
from fedlite.inference.quantized import calibrating, quantize
from fedlite.inference.small.lowrank import thinned
from fedlite.inference.small.narrowing import narrowed
from fedlite.inference.small.search import APART, STEPS, apart, smallest
from fedlite.inference.small.teaching import taught
from fedlite.models import Branched
from fedlite.training.share import settle_process
from server.summary import machine
from simulations.benchmarks import inference
from simulations.benchmarks.inference import MANY, Way, opened, scenario, timed

BATCH = 256
MAX_LOSS = 0.01
SHARES, ERRORS = (0.5, 0.75), (0.05,)
# Of a search for about the same bytes: shares of channels, or of energy, that may go.
FINE = tuple(round(0.05 * at, 2) for at in range(1, 20))
Step = tuple[str, Branched, bool]


class Steps:
    """All steps of one trained network."""

    def __init__(self, trained: Trained, given: Any) -> None:
        """Read the records that learn, judge and test."""
        if not isinstance(trained.model, Branched):
            raise ValueError(f"{trained.directory}: must be a model of two branches")
        self.trained, self.model = trained, trained.model.deployed().eval()
        self.records = calibrating(trained)
        learning, _ = apart(self.records, MAX_LOSS)
        with torch.no_grad():
            self.hidden = self.model.stem(torch.from_numpy(learning.x))
            self.answers = self.model.tail(self.hidden)
        _, source, _ = plans.simulated(given)
        if source.test is None:
            raise ValueError(f"{source.name}: must have a test set")
        self.test: Dataset = source.test

    def learnt(self, small: Branched) -> Branched:
        """Return a smaller one that has learnt the old answers, as the search has it."""
        return taught(small, self.hidden, self.answers, steps=STEPS, seed=0)

    def alone(self) -> Iterator[Step]:
        """Yield each step alone: its name, the network, and whether its tail is in integers."""
        yield "as it was", self.model, False
        yield "8-bit integers", self.model, True
        for share in SHARES:
            name = f"{100 * share:g} % of channels less"
            yield f"{name}, not taught", narrowed(self.model, share), False
            yield name, self.learnt(narrowed(self.model, share)), False
        for error in ERRORS:
            name = f"low rank, {100 * error:g} % of energy"
            yield f"{name}, not taught", thinned(self.model, self.hidden, error), False
            yield name, self.learnt(thinned(self.model, self.hidden, error)), False

    def joined(self) -> Iterator[Step]:
        """Yield the smallest that loses at most a point, in float32 and in integers."""
        found = smallest(self.model, self.records, MAX_LOSS)
        less = "none" if found.error is None else f"{100 * found.error:g} % of energy"
        name = f"joined ({100 * found.share:g} % of channels, low rank {less})"
        yield name, found.model, False
        yield f"{name}, 8-bit integers", found.model, True

    def alike(self, size: int) -> Iterator[Step]:
        """Yield each step alone at about so many bytes, whatever it loses."""
        ways: dict[str, Callable[[float], Branched]] = {
            "of channels less": lambda share: narrowed(self.model, share),
            "of energy, low rank": lambda error: thinned(self.model, self.hidden, error),
        }
        for name, way in ways.items():
            cut = min(FINE, key=lambda at: abs(4 * _values(way(at)) - size))
            yield f"equal size: {100 * cut:g} % {name}", self.learnt(way(cut)), False

    def row(self, step: Step) -> tuple[dict[str, Any], Way]:
        """Return what a step comes to, and its deep branch, to be timed."""
        name, model, integers = step
        of = replace(self.trained, model=model)
        if integers:
            small = quantize(of, self.records, apart=APART)
            stem, tail = small.stem, small.tail
        else:
            stem, tail = graphs.traced(model)
        costs = model.costs()
        first, rest = session(stem), session(tail)

        def deep(x: NDArray[Any]) -> Any:
            return rest.run(None, {"hidden": first.run(["hidden"], {"x": x})[0]})[0]

        x = self.test.x
        right = np.concatenate(
            [deep(x[at : at + BATCH]).argmax(1) for at in range(0, len(x), BATCH)]
        )
        figures = {
            "deep %": 100 * float((right == self.test.y).mean()),
            "bytes": len(tail),
            "MACs": costs["stem"]["macs"] + costs["tail"]["macs"],
        }
        return {"what": name, "parameters": {}, "figures": figures, "units": {}}, deep


def _values(model: Branched) -> int:
    return sum(one.numel() for one in model.tail.parameters())


def study(of: Steps) -> list[dict[str, Any]]:
    """Return all rows; ways take turns for the time."""
    found = [of.row(step) for step in of.alone()]
    found += (joined := [of.row(step) for step in of.joined()])
    found += [of.row(step) for step in of.alike(joined[-1][0]["figures"]["bytes"])]
    took = timed({str(at): way for at, (_, way) in enumerate(found)}, of.test.x[:MANY], BATCH)
    for at, (row, _) in enumerate(found):
        row["figures"]["µs"] = median(took[str(at)])
        row["figures"]["points less"] = found[0][0]["figures"]["deep %"] - row["figures"]["deep %"]
    return [row for row, _ in found]


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="digits, two rounds")
    parser.add_argument("--rounds", type=int, default=inference.MODELS["vgg"], help="of the run")
    parser.add_argument("--out", type=Path, default=None, help="keep the run in this folder")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    needs("onnx", "onnxscript", "onnxruntime")
    settle_process()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-")) / "run"
    given = scenario("vgg", quick=arguments.quick)
    if arguments.quick:
        # Else too few would judge.
        given = replace(given, inference=replace(given.inference, calibration=0.5))
    else:
        given = replace(given, federation=replace(given.federation, rounds=arguments.rounds))
    print(f"{machine()}\n")
    rows = study(Steps(opened(given, out), given))
    for row in rows:
        figures = ", ".join(f"{name} {value:.6g}" for name, value in row["figures"].items())
        print(f"{row['what']}: {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
