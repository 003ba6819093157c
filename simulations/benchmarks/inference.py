"""What answering easy inputs early saves and costs: accuracy, work, and real processor time.

`python -m simulations.benchmarks.inference [--quick] [--json FILE] [--out DIR] [--model NAME]...`
trains a network on Fashion-MNIST at twenty skewed sites, calibrates and exports it. It prints what
every accuracy given up comes to on the test set, at how many sites each kind of threshold breaks
its promise, and microseconds of one thread an input for PyTorch and ONNX, all deep, all shallow,
and adaptive. With both models the smaller one's deep branch is a control: what a static network of
less work does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.evaluation import Trained, open_model
from fedlite.inference.bundle import STEM, TAIL, WHOLE, Bundle, load
from fedlite.inference.calibration import PROMISES
from fedlite.inference.graphs import NEVER, needs
from fedlite.inference.release import write_bundle
from fedlite.models import Branched
from fedlite.scenario import Scenario, from_dict
from fedlite.training.share import settle_process
from server.summary import machine
from simulations.adaptive import inference_of
from simulations.run import simulate

# Networks, and their rounds.
MODELS = {"cnn": 20, "mcmahan": 5}
ALPHAS, TIMED = (0.0025, 0.005, 0.01, 0.02), 0.01
BATCHES = (1, 32, 256)
# Inputs that are timed in batches, and one by one.
MANY, FEW, REPEATS = 2048, 512, 7
Way = Callable[[NDArray[Any]], Any]


def scenario(model: str, *, quick: bool) -> Scenario:
    """Return the federation that trains a network, whose test set is held by no site."""
    federation = {"name": model, "rounds": MODELS[model], "sites": 20, "weighting": "records"}
    data: dict[str, Any] = {"name": "fashion-mnist", "partition": "dirichlet", "alpha": 0.3}
    if quick:
        federation |= {"rounds": 2, "sites": 3}
        data |= {"name": "digits", "alpha": 1.0}
    return from_dict(
        {
            "federation": federation | {"evaluate_every": 0},
            "data": data | {"test_fraction": 0.3},
            "model": {"name": model},
            "training": {"learning_rate": 0.05, "momentum": 0.9, "schedule": "linear"},
            "uplink": {"compressor": "dense"},
            "downlink": {"compressor": "dense"},
            "inference": {"calibration": 0.3, "alpha": TIMED},
        }
    )


def asked(given: Scenario, **inference: Any) -> Scenario:
    """Return the scenario with other keys of `[inference]`."""
    return replace(given, inference=replace(given.inference, **inference))


def accuracies(given: Scenario, trained: Trained) -> list[dict[str, Any]]:
    """Return what each accuracy given up comes to on the test set."""
    rows = []
    for alpha in ALPHAS:
        told = inference_of(asked(given, alpha=alpha), trained)
        figures = {"threshold": told["threshold"], "early %": 100 * told["share_shallow"]}
        figures |= {f"{name} %": 100 * value for name, value in told["accuracy"].items()}
        figures |= {"loss %": 100 * told["loss"], "harm %": 100 * told["harm"]}
        work = told["macs"]
        figures |= {
            "MACs": work["adaptive"],
            "MACs of deep %": 100 * work["adaptive"] / work["deep"],
        }
        rows.append(_row("accuracy", given.model.name, {"alpha": alpha}, figures))
    told = inference_of(given, trained)
    rows.append(_row("AUROC of a right shallow answer", given.model.name, {}, told["auroc"]))
    return rows


def promises(given: Scenario, trained: Trained) -> list[dict[str, Any]]:
    """Return at how many sites each kind of threshold harms more than was accepted."""
    rows = []
    for alpha in ALPHAS:
        for kind in PROMISES:
            told = inference_of(asked(given, threshold=kind, alpha=alpha), trained)
            sites = [row for row in told["by_site"].values() if "tested" in row]
            figures = {
                "sites": len(sites),
                "above alpha": sum(row["violated"] for row in sites),
                "worst harm %": 100 * max(row["harm"] for row in sites),
                "all deep": sum(row["threshold"] is None for row in sites),
                "early, mean %": 100 * float(np.mean([row["share_shallow"] for row in sites])),
            }
            rows.append(_row("sites", given.model.name, {"alpha": alpha, "kind": kind}, figures))
    return rows


def times(given: Scenario, trained: Trained, folder: Path) -> list[dict[str, Any]]:
    """Return microseconds of one thread an input, by engine, way and batch."""
    write_bundle(trained, folder)
    bundle = load(folder)
    _, source, _ = plans.simulated(given)
    if source.test is None:
        raise ValueError(f"{source.name}: must have a test set")
    rows = []
    for batch in BATCHES:
        x = source.test.x[: FEW if batch == 1 else MANY]
        ways = {f"PyTorch, {how}": way for how, way in _torch_ways(trained, bundle).items()}
        ways |= {f"ONNX, {how}": way for how, way in _two_graphs(folder, bundle).items()}
        if batch == 1 and bundle.threshold is not None:
            ways |= {f"ONNX, {how}, one graph": way for how, way in _one_graph(folder, bundle)}
        rows.append(_row("µs an input", given.model.name, {"batch": batch}, timed(ways, x, batch)))
    sizes = {name: (folder / name).stat().st_size for name in (STEM, TAIL, WHOLE)}
    rows.append(_row("bytes", given.model.name, {}, sizes))
    return rows


def _torch_ways(trained: Trained, bundle: Bundle) -> dict[str, Way]:
    branched = trained.model
    if not isinstance(branched, Branched):
        raise ValueError(f"{trained.directory}: must be a model of two branches")
    model = branched.deployed()
    limit = NEVER if bundle.threshold is None else bundle.threshold

    def adaptive(x: NDArray[Any]) -> Any:
        hidden = model.stem(torch.from_numpy(x))
        answers = model.exit(hidden)
        stays = (torch.softmax(answers, 1).amax(1) < limit).nonzero()[:, 0]
        if len(stays):
            answers[stays] = model.tail(hidden[stays])
        return answers

    return {
        "deep": lambda x: model.tail(model.stem(torch.from_numpy(x))),
        "shallow": lambda x: model.exit(model.stem(torch.from_numpy(x))),
        "adaptive": adaptive,
    }


def _two_graphs(folder: Path, bundle: Bundle) -> dict[str, Way]:
    found: dict[str, Way] = {}
    for how, threshold in (("deep", None), ("shallow", 0.0), ("adaptive", bundle.threshold)):
        one = load(folder)
        one.threshold = threshold
        found[how] = one.predict
    return found


def _one_graph(folder: Path, bundle: Bundle) -> list[tuple[str, Way]]:
    """Return the graph with the `If` at three thresholds, which are a value in it."""
    import onnx
    import onnxruntime

    found: list[tuple[str, Way]] = []
    for how, threshold in (("deep", NEVER), ("shallow", 0.0), ("adaptive", bundle.threshold)):
        graph = onnx.load(folder / WHOLE)
        for one in graph.graph.initializer:
            if one.name == "threshold":
                one.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold), "threshold"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)

        def way(x: NDArray[Any], session: Any = session) -> Any:
            return session.run(None, {"stem/x": x})

        found.append((how, way))
    return found


def timed(ways: dict[str, Way], x: NDArray[Any], batch: int) -> dict[str, float]:
    """Return the median processor time of each way in microseconds an input, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for repeat in range(REPEATS + 1):
            for name, way in ways.items():
                started = time.process_time()
                for start in range(0, len(x), batch):
                    way(x[start : start + batch])
                # The first warms up.
                if repeat:
                    seconds[name].append(time.process_time() - started)
    return {name: 1e6 * median(found) / len(x) for name, found in seconds.items()}


def _row(what: str, model: str, told: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    units = {name: "%" if name.endswith("%") else "" for name in figures}
    return {
        "what": what,
        "parameters": {"model": model, **told},
        "figures": figures,
        "units": units,
    }


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="digits, two rounds")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--out", type=Path, default=None, help="keep the runs in this folder")
    parser.add_argument("--model", action="append", choices=sorted(MODELS), help="default: cnn")
    arguments = parser.parse_args()
    needs("onnx", "onnxscript", "onnxruntime")
    settle_process()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    print(f"{machine()}\n")
    rows: list[dict[str, Any]] = []
    for model in arguments.model or ("cnn",):
        given, directory = scenario(model, quick=arguments.quick), out / model
        if not (directory / "summary.json").is_file():
            simulate(given, directory, engine="serial", quiet=True)
        trained = open_model(directory)
        found = accuracies(given, trained) + promises(given, trained)
        with tempfile.TemporaryDirectory() as folder:
            found += times(given, trained, Path(folder) / "bundle")
        for row in found:
            told = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
            figures = ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in row["figures"].items()
            )
            print(f"{row['what']} ({told}): {figures}", flush=True)
        rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
