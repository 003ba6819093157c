"""A pretrained encoder with an early exit: what it saves, what it promises, how small it becomes.

`python -m simulations.benchmarks.encoder [--quick] [--json FILE] [--out DIR] [--method NAME]
[--exit N] [--seeds N] [--small]` trains the scenario `sentiment-lora` in half of its rounds with a
part of the records held out to calibrate. It prints what two accuracies given up come to on the
records held out, in float32 and in integers; in how many of 200 draws of the calibration records
more than that was harmed; whether ONNX answers as PyTorch does; and milliseconds of one thread a
text, all deep, all shallow and adaptive. With `--small` also bytes, accuracy and time of each step
that makes it smaller, alone and joined.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import Dataset
from fedlite.evaluation import Trained, held_out, open_model
from fedlite.inference import graphs, routing
from fedlite.inference.bundle import session
from fedlite.inference.calibration import choose, count
from fedlite.inference.graphs import NEVER, needs
from fedlite.inference.integers import in_integers
from fedlite.inference.portions import portions
from fedlite.inference.quantized import Quantized, calibrating
from fedlite.inference.small import encoder as steps
from fedlite.inference.small.encoder_search import Rung, tries
from fedlite.inference.small.encoder_teaching import taught
from fedlite.inference.small.search import apart
from fedlite.inference.work import Answered, Costs, answered, auroc, early, outcome
from fedlite.models import Branched
from fedlite.models.pretrained.plain import Encoder
from fedlite.scenario import Scenario, load
from fedlite.training.share import settle_process
from server.summary import machine
from simulations.benchmarks.inference import Way, timed
from simulations.run import resume_scenario, scenario_path, simulate

ALPHAS, CONFIDENCE, ROUTER = (0.005, 0.01), 0.95, "confidence"
BATCHES, TIMED, RESAMPLES = (1, 32), 128, 200
# What is joined: hidden units that go, energy of matrices, bits of the table and of matrices.
JOINED: tuple[Rung, ...] = ((0.5, None, (4, 4)), (0.5, 0.01, (4, 4)), (0.5, None, (4, 8)))
TAUGHT = 100
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A model that answers through graphs. name: for the rows."""

    name: str
    model: Quantized

    @property
    def bytes_(self) -> int:
        """Both graphs together."""
        return len(self.model.stem) + len(self.model.tail)


def scenario(method: str, exit: int, seed: int, *, quick: bool) -> Scenario:
    """Return what trains a classifier. exit: the early head's layer; 0: the middle."""
    settings = [
        f"federation.seed={seed}",
        f"federation.rounds={1 if quick else 12}",
        "federation.evaluate_every=0",
        "federation.deadline_seconds=86400",
        f"model.options.method={method}",
        f"model.options.exit={exit}",
        "inference.calibration=0.3",
        f"inference.alpha={ALPHAS[-1]}",
    ]
    if method == "heads":
        settings.append("training.learning_rate=0.002")
    if quick:
        settings += ["data.length=16", "training.steps=2"]
    return load(scenario_path("sentiment-lora"), settings)


def through(trained: Trained, model: Branched, bits: tuple[int, int] | None = None) -> Quantized:
    """Return a model that answers through graphs. bits: of table and matrices; None: float32."""
    stem, tail = graphs.traced(model)
    if bits:
        stem, tail = in_integers(stem, *bits), in_integers(tail, *bits)
    kept = {one.name: getattr(trained, one.name) for one in fields(Trained)}
    return Quantized(**kept | {"model": model}, stem=stem, tail=tail, apart=0.0)


def accuracies(part: Part, by: Answered, on: Answered, costs: Costs) -> Iterator[Row]:
    """Yield what each accuracy given up comes to; by: what calibrates. on: what is measured."""
    for alpha in ALPHAS:
        counts = count(by.scores(ROUTER, {}), by.shallow, by.deep, by.shares.shape[1], by.truth)
        choice = choose(counts, alpha, CONFIDENCE)
        found = outcome(on, early(on.scores(ROUTER, {}), choice.threshold))
        figures = {"threshold": choice.threshold, "early %": 100 * found["share_shallow"]}
        figures |= {f"{name} %": 100 * value for name, value in found["accuracy"].items()}
        figures |= {"loss %": 100 * found["loss"], "harm %": 100 * found["harm"]}
        figures["MACs of deep %"] = 100 * costs.adaptive(found["share_shallow"]) / costs.deep
        yield _row("accuracy", {"graphs": part.name, "alpha": alpha}, figures)
    found = {name: auroc(on, on.scores(name, {})) for name in routing.HOUSE}
    yield _row("AUROC of a right shallow answer", {"graphs": part.name}, found)


def resamples(by: Answered, on: Answered) -> Iterator[Row]:
    """Yield in which share of draws of calibration records more than alpha is harmed.

    As many records as calibrate are drawn, each by itself, from them and those held out together;
    harm is that of all of these, which here is what inputs are like.
    """
    scores = np.concatenate([one.scores(ROUTER, {}) for one in (by, on)])
    shallow, deep, truth = (
        np.concatenate([getattr(one, name) for one in (by, on)])
        for name in ("shallow", "deep", "truth")
    )
    harmed = (deep == truth) & (shallow != truth)
    drawn, few, classes = np.random.default_rng(0), len(by), by.shares.shape[1]
    for alpha in ALPHAS:
        above, share = 0, []
        for _ in range(RESAMPLES):
            at = drawn.integers(0, len(truth), few)
            counts = count(scores[at], shallow[at], deep[at], classes, truth[at])
            leaves = early(scores, choose(counts, alpha, CONFIDENCE).threshold)
            above += bool((leaves & harmed).mean() > alpha)
            share.append(leaves.mean())
        figures = {"records": few, "draws": RESAMPLES, "early, mean %": 100 * float(np.mean(share))}
        figures["harm above alpha %"] = 100 * above / RESAMPLES
        yield _row("calibration drawn again", {"alpha": alpha}, figures)


def agreement(trained: Trained, part: Part, data: Dataset, threshold: float | None) -> Row:
    """Return how many texts go another way, or get another label, than by PyTorch."""
    ways = []
    for of in (trained, part.model):
        found = answered(of, data)
        leaves = early(found.scores(ROUTER, {}), threshold)
        ways.append((leaves, np.where(leaves, found.shallow, found.deep)))
    (here, labels), (there, others) = ways
    figures = {"texts": len(data), "other ways": int((here != there).sum())}
    return _row(
        "ONNX beside PyTorch",
        {"graphs": part.name},
        figures | {"other labels": int((labels != others).sum())},
    )


def times(made: list[tuple[Part, float | None]], x: NDArray[np.int64]) -> Iterator[Row]:
    """Yield milliseconds of one thread a text, medians, by graphs, way and batch."""
    for batch in BATCHES:
        ways: dict[str, Way] = {}
        for part, limit in made:
            first, rest = session(part.model.stem), session(part.model.tail)
            for how, at in (("deep", NEVER), ("shallow", 0.0), ("adaptive", limit)):
                over = NEVER if at is None else at
                ways[f"{part.name}, {how}"] = partial(_answer, first, rest, over)
                if batch == 1 and how != "shallow":
                    one = graphs.joined(part.model.stem, part.model.tail, ROUTER, over)
                    ways[f"{part.name}, {how}, one graph"] = partial(_one, session(one or b""))
        found = timed(ways, x, batch)
        figures = {name: float(np.median(of)) / 1000 for name, of in found.items()}
        yield _row("ms a text", {"batch": batch}, figures)


def _answer(first: Any, rest: Any, limit: float, x: NDArray[np.int64]) -> None:
    """Answer a batch by two graphs; a limit above all scores lets none leave early."""
    for _, part in portions(x):
        hidden, shallow = first.run(None, {"x": part})
        shares = routing.softmax(shallow.astype(np.float64))
        stays = np.flatnonzero(shares.max(axis=1) < limit)
        if len(stays):
            rest.run(None, {"hidden": hidden[stays]})


def _one(ready: Any, x: NDArray[np.int64]) -> None:
    for _, part in portions(x):
        ready.run(None, {"stem/x": part})


def smaller(trained: Trained, model: Encoder, test: Dataset, seed: int) -> Iterator[Row]:
    """Yield bytes, accuracy and time of each step alone, and of all joined."""
    learning, judging = apart(calibrating(trained), 0.01)
    model = model.eval().requires_grad_(False)
    moments = steps.moments_of(model, learning.x[:256])

    def told(name: str, of: Encoder, bits: tuple[int, int] | None = None) -> Row:
        part = Part(name, through(trained, of, bits))
        found = answered(part.model, test)
        figures = {"bytes": part.bytes_, "deep %": 100 * float((found.deep == test.y).mean())}
        figures["shallow %"] = 100 * float((found.shallow == test.y).mean())
        way = partial(_answer, session(part.model.stem), session(part.model.tail), NEVER)
        spent = np.median(timed({"deep": way}, _some(test), 32)["deep"])
        figures["ms a text"] = float(spent) / 1000
        return _row("made smaller", {"step": name}, figures)

    def learnt(of: Encoder) -> Encoder:
        return taught(of, model, learning.x, steps=TAUGHT, seed=seed)

    yield told("as it was", model)
    yield told("integers, 8 bits", model, (8, 8))
    yield told("integers, table of 4 bits", model, (4, 8))
    yield told("integers, 4 bits", model, (4, 4))
    for one in tries(model, learning, judging, ladder=JOINED, steps=TAUGHT, seed=seed):
        cut = f"{100 * one.share:g} % of units"
        cut += "" if one.error is None else f", {100 * one.error:g} % of energy"
        bits = " and ".join(map(str, one.bits))
        yield told(f"joined: {cut}, {bits} bits", one.model, one.bits)
    # No graph packs 3 bits: accuracy is that of values so rounded, and bytes are counted.
    table, others = steps.weights_of(model)
    found = answered(through(trained, steps.rounded(model, 4, 3)), test)
    figures = {
        "bytes": (4 * table + 3 * others) // 8,
        "deep %": 100 * float((found.deep == test.y).mean()),
    }
    yield _row("made smaller", {"step": "integers, 4 and 3 bits, rounded"}, figures)
    yield told("50 % of units", learnt(steps.narrowed(model, 0.5, moments)[0]))
    yield told("low rank, 1 % of energy", learnt(steps.thinned(model, 0.01, moments)))


def study(given: Scenario, out: Path, seed: int, *, small: bool, few: int | None) -> Iterator[Row]:
    """Yield all rows of one run, which is made where it is not there yet."""
    if not (out / "summary.json").is_file():
        there = (out / "checkpoint").is_dir()
        simulate(resume_scenario(out) if there else given, out, engine="serial", quiet=True)
    trained = open_model(out)
    if not isinstance(trained.model, Branched):
        raise ValueError(f"{out}: must be a model of two branches")
    model = trained.model.deployed()
    costs = Costs.of(trained.model.costs())
    cut = slice(few)
    calibration, test = (
        Dataset(of.x[cut], of.y[cut]) for of in (calibrating(trained), held_out(trained).data)
    )
    made: list[tuple[Part, float | None]] = []
    for name, bits in (("float32", None), ("integers", (8, 8))):
        part = Part(name, through(trained, model, bits))
        by, on = answered(part.model, calibration), answered(part.model, test)
        found = list(accuracies(part, by, on, costs))
        yield from found
        limit = found[0]["figures"]["threshold"]
        made.append((part, limit))
        yield _row("bytes", {"graphs": name}, {"stem and tail": part.bytes_})
        if bits is None:
            yield from resamples(by, on)
            yield agreement(trained, part, test, limit)
    yield from times(made, _some(test))
    if small and isinstance(model, Encoder):
        yield from smaller(trained, model, test, seed)


def _some(data: Dataset) -> NDArray[np.int64]:
    """Return the texts that are timed, of all sites: they stand one after the other."""
    found: NDArray[np.int64] = data.x[np.linspace(0, len(data) - 1, TIMED).astype(np.int64)]
    return found


def _row(what: str, told: dict[str, Any], figures: dict[str, Any]) -> Row:
    units = {name: "%" if name.endswith("%") else "" for name in figures}
    return {"what": what, "parameters": told, "figures": figures, "units": units}


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="heads, one round, few texts")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--out", type=Path, default=None, help="keep the runs in this folder")
    parser.add_argument("--method", choices=("both", "heads"), default="both")
    parser.add_argument("--exit", type=int, default=0, help="the early head's layer; 0: the middle")
    parser.add_argument("--seeds", type=int, default=1, help="seeds from 1 to this, default 1")
    parser.add_argument("--small", action="store_true", help="what makes it smaller, too")
    arguments = parser.parse_args()
    needs("onnx", "onnxscript", "onnxruntime")
    settle_process()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    print(f"{machine()}\n")
    method = "heads" if arguments.quick else arguments.method
    rows: list[Row] = []
    for seed in range(1, arguments.seeds + 1):
        name = f"{method}-{arguments.exit}-{seed}"
        given = scenario(method, arguments.exit, seed, quick=arguments.quick)
        few = 300 if arguments.quick else None
        for row in study(given, out / name, seed, small=arguments.small, few=few):
            row = replace_parameters(row, method=method, exit=arguments.exit, seed=seed)
            told = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
            figures = ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in row["figures"].items()
            )
            print(f"{row['what']} ({told}): {figures}", flush=True)
            rows.append(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def replace_parameters(row: Row, **told: Any) -> Row:
    """Return a row that says of which run it is, too."""
    return row | {"parameters": told | row["parameters"]}


if __name__ == "__main__":
    main()
