"""What answering easy inputs early saves and costs: accuracy, work, and real processor time.

`python -m simulations.benchmarks.inference [--quick] [--json FILE] [--out DIR] [--model NAME]...
[--partition NAME]... [--seeds N]` trains a network on Fashion-MNIST at twenty sites, calibrates and
exports it. It prints what every accuracy given up comes to on the test set, with a tail of float32
and of integers; in how many of 200 draws of the calibration records more than that was lost; at how
many sites each kind of threshold breaks its promise; and microseconds of one thread an input for
PyTorch and ONNX, all deep, all shallow, and adaptive. `vgg` has a control beside it: a smaller
network without an exit, trained alike, of about the work that the adaptive one comes to.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.evaluation import Trained, open_model
from fedlite.inference import graphs
from fedlite.inference.bundle import INTEGERS, STEM, TAIL, WHOLE, Bundle, load, session
from fedlite.inference.calibration import PROMISES, RISKS, choose, count
from fedlite.inference.graphs import NEVER, needs
from fedlite.inference.measured import inference_of
from fedlite.inference.quantized import Quantized, calibrating, quantize
from fedlite.inference.release import write_bundle
from fedlite.inference.work import answered, early
from fedlite.models import Branched
from fedlite.scenario import Scenario, from_dict
from fedlite.training.share import settle_process
from server.summary import machine
from simulations.run import simulate

PARTITIONS = ("dirichlet", "iid")
# Networks, and their rounds.
MODELS = {"cnn": 20, "mcmahan": 5, "vgg": 25}
# What no exit is needed for: about the multiply-adds that `vgg` needs where two thirds leave early.
STATIC = {"tail": 48}
ALPHAS, TIMED = (0.0025, 0.005, 0.01, 0.02), 0.005
BATCHES = (1, 32, 256)
# Bundles that ONNX Runtime computes; programs of ExecuTorch take an extra that is not installed.
GRAPHS = ("onnx", INTEGERS)
# Inputs that are timed in batches, and one by one.
MANY, FEW, REPEATS = 2048, 512, 7
# Times that calibration is drawn again.
RESAMPLES = 200
Way = Callable[[NDArray[Any]], Any]


def scenario(
    model: str,
    *,
    quick: bool = False,
    partition: str = "dirichlet",
    seed: int = 1,
    static: bool = False,
) -> Scenario:
    """Return the federation that trains a network, whose test set is held by no site.

    static: a smaller one whose exit is not trained, with all else alike.
    """
    federation = {"name": model, "rounds": MODELS[model], "sites": 20, "weighting": "records"}
    data: dict[str, Any] = {"name": "fashion-mnist", "partition": partition}
    if partition == "dirichlet":
        data["alpha"] = 0.3
    training = {"learning_rate": 0.05, "momentum": 0.9, "schedule": "linear"}
    if quick:
        federation |= {"rounds": 2, "sites": 3}
        data |= {"name": "digits"} | ({"alpha": 1.0} if partition == "dirichlet" else {})
    options = {"options": STATIC} if static else {}
    return from_dict(
        {
            # A busy machine must not decide who is in time.
            "federation": federation
            | {"evaluate_every": 0, "seed": seed, "deadline_seconds": 86400.0},
            "data": data | {"test_fraction": 0.3},
            "model": {"name": model} | options,
            "training": training | ({"exit_weight": 0.0} if static else {}),
            "uplink": {"compressor": "dense"},
            "downlink": {"compressor": "dense"},
            "inference": {"calibration": 0.3, "alpha": TIMED},
        }
    )


def asked(given: Scenario, **inference: Any) -> Scenario:
    """Return the scenario with other keys of `[inference]`."""
    return replace(given, inference=replace(given.inference, **inference))


def accuracies(given: Scenario, trained: Trained, **told: Any) -> list[dict[str, Any]]:
    """Return what each accuracy given up comes to on the test set."""
    rows = []
    for alpha, risk in product(ALPHAS, RISKS):
        found = inference_of(asked(given, alpha=alpha, risk=risk), trained)
        figures = {"threshold": found["threshold"], "early %": 100 * found["share_shallow"]}
        figures |= {f"{name} %": 100 * value for name, value in found["accuracy"].items()}
        figures |= {"loss %": 100 * found["loss"], "harm %": 100 * found["harm"]}
        work = found["macs"]
        figures |= {
            "MACs": work["adaptive"],
            "MACs of deep %": 100 * work["adaptive"] / work["deep"],
        }
        rows.append(_row("accuracy", told | {"alpha": alpha, "risk": risk}, figures))
    found = inference_of(given, trained)
    rows.append(_row("AUROC of a right shallow answer", told, found["auroc"]))
    return rows


def resamples(given: Scenario, trained: Trained, **told: Any) -> list[dict[str, Any]]:
    """Return in which share of draws of calibration records more than alpha is lost elsewhere.

    Calibrated with a tenth of the records that no site trains on, drawn anew each time; harm and
    loss are those of all the others.
    """
    _, _, sites = plans.simulated(given)
    parts = [site.test for site in sites]
    parts += [site.calibration for site in sites if site.calibration is not None]
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in "xy")
    of = answered(trained, Dataset(x, y))
    scores = of.scores(given.inference.router, {})
    harmed = (of.deep == of.truth) & (of.shallow != of.truth)
    lost = (of.deep == of.truth).astype(int) - (of.shallow == of.truth)
    drawn, few, rows = np.random.default_rng(0), len(y) // 10, []
    for alpha, risk in product(ALPHAS, RISKS):
        worse = {"harm": 0, "loss": 0}
        share = []
        for _ in range(RESAMPLES):
            order = drawn.permutation(len(y))
            by, rest = order[:few], order[few:]
            counts = count(scores[by], of.shallow[by], of.deep[by], trained.model.classes, y[by])
            chosen = choose(counts, alpha, given.inference.confidence, risk)
            leaves = early(scores[rest], chosen.threshold)
            worse["harm"] += bool((leaves & harmed[rest]).mean() > alpha)
            worse["loss"] += bool((leaves * lost[rest]).mean() > alpha)
            share.append(leaves.mean())
        figures = {"records": few, "draws": RESAMPLES, "early, mean %": 100 * float(np.mean(share))}
        figures |= {f"{name} above alpha %": 100 * n / RESAMPLES for name, n in worse.items()}
        rows.append(_row("calibration drawn again", told | {"alpha": alpha, "risk": risk}, figures))
    return rows


def control(static: Trained, integers: Quantized, test: Dataset, **told: Any) -> dict[str, Any]:
    """Return what the smaller network without an exit has right, and its work."""
    costs = static.model.costs()
    figures: dict[str, Any] = {"MACs": costs["stem"]["macs"] + costs["tail"]["macs"]}
    for name, of in (("float32", static), ("integers", integers)):
        figures[f"{name} %"] = 100 * float((of.answers(test)["deep"].argmax(1) == test.y).mean())
    return _row("static network", told, figures)


def promises(given: Scenario, trained: Trained, **told: Any) -> list[dict[str, Any]]:
    """Return at how many sites each kind of threshold costs more than was accepted."""
    rows = []
    for alpha, risk in product(ALPHAS, RISKS):
        for kind in PROMISES:
            if kind == "shrunk" and risk == "loss":
                continue
            found = inference_of(asked(given, threshold=kind, alpha=alpha, risk=risk), trained)
            sites = [row for row in found["by_site"].values() if "tested" in row]
            figures = {
                "sites": len(sites),
                "above alpha": sum(row["violated"] for row in sites),
                "worst %": 100 * max(row[risk] for row in sites),
                "all deep": sum(row["threshold"] is None for row in sites),
                "early, mean %": 100 * float(np.mean([row["share_shallow"] for row in sites])),
            }
            told_of = told | {"alpha": alpha, "risk": risk, "kind": kind}
            rows.append(_row("sites", told_of, figures))
    return rows


def times(
    trained: dict[str, Trained],
    static: Trained | None,
    x: NDArray[Any],
    folder: Path,
    **told: Any,
) -> list[dict[str, Any]]:
    """Return microseconds of one thread an input, by engine, way and batch, and how much less.

    trained: in float32 and in integers. A batch goes deep by the two graphs alone; adaptive is
    `Bundle.predict`, all its checks and the thinning out included, with the threshold for harm and
    with that for the loss.
    """
    plain, rows = trained["ONNX"], []
    for target in GRAPHS:
        write_bundle(plain, folder / target, target=target)
    bundles = {"ONNX": load(folder / "onnx"), "int8": load(folder / INTEGERS)}
    limits = {
        (name, risk): inference_of(asked(plain.scenario, risk=risk), of)["threshold"]
        for (name, of), risk in product(trained.items(), RISKS)
    }
    for batch in BATCHES:
        ways = {f"PyTorch, {how}": of for how, of in _torch_ways(plain, bundles["ONNX"]).items()}
        for name, bundle in bundles.items():
            by_risk = {risk: limits[name, risk] for risk in RISKS}
            ways |= {f"{name}, {how}": way for how, way in _ways(bundle, batch, by_risk).items()}
        if static is not None:
            integers = quantize(static, calibrating(static))
            parts = graphs.traced(static.model)  # type: ignore[arg-type]
            ways["ONNX, static"] = _deep(*parts)
            ways["int8, static"] = _deep(integers.stem, integers.tail)
        found = timed(ways, x[: FEW if batch == 1 else MANY], batch)
        rows.append(_row("µs an input", told | {"batch": batch}, _medians(found)))
        deep = np.array(found["ONNX, deep"])
        less = {name: list(deep / np.array(of)) for name, of in found.items()}
        rows.append(_row("times less than ONNX, deep", told | {"batch": batch}, _medians(less)))
    for target in GRAPHS:
        sizes = {name: (folder / target / name).stat().st_size for name in (STEM, TAIL, WHOLE)}
        rows.append(_row("bytes", told | {"target": target}, sizes))
    return rows


def _medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(of) for name, of in found.items()}


def _deep(stem: bytes, tail: bytes) -> Way:
    first, rest = session(stem), session(tail)
    return lambda x: rest.run(None, {"hidden": first.run(["hidden"], {"x": x})[0]})


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


def _ways(bundle: Bundle, batch: int, limits: dict[str, float | None]) -> dict[str, Way]:
    """Return how a bundle answers: batches by two graphs, single inputs by the one with an `If`.

    limits: the threshold by what it is for.
    """
    files = {name: (bundle.directory / name).read_bytes() for name in (STEM, TAIL)}
    first = session(files[STEM])
    if batch > 1:
        return {
            "deep": _deep(files[STEM], files[TAIL]),
            "shallow": lambda x: first.run(["early"], {"x": x}),
            **{f"adaptive ({risk})": _predicting(bundle, of) for risk, of in limits.items()},
        }
    found: dict[str, Way] = {}
    every = {"deep": NEVER, "shallow": 0.0}
    every |= {f"adaptive ({risk})": NEVER if of is None else of for risk, of in limits.items()}
    for how, threshold in every.items():
        one = graphs.joined(files[STEM], files[TAIL], bundle.router, threshold)
        if one is None:
            raise ValueError(f"{bundle.router}: must be a router that one graph can compute")
        ready = session(one)
        found[how] = partial(_single, ready)
    return found


def _predicting(bundle: Bundle, threshold: float | None) -> Way:
    other = load(bundle.directory)
    other.threshold = threshold
    return other.predict


def _single(ready: Any, x: NDArray[Any]) -> Any:
    return ready.run(None, {"stem/x": x})


def timed(ways: dict[str, Way], x: NDArray[Any], batch: int) -> dict[str, list[float]]:
    """Return each way's processor time in microseconds an input, turn by turn."""
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
    return {name: [1e6 * one / len(x) for one in found] for name, found in seconds.items()}


def _row(what: str, told: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    units = {name: "%" if name.endswith("%") else "" for name in figures}
    return {
        "what": what,
        "parameters": told,
        "figures": figures,
        "units": units,
    }


def opened(given: Scenario, directory: Path) -> Trained:
    """Return the model of a run, which is made where it is not there yet."""
    if not (directory / "summary.json").is_file():
        simulate(given, directory, engine="serial", quiet=True)
    return open_model(directory)


def study(model: str, partition: str, seed: int, out: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return all rows of one network, partition and seed."""
    told: dict[str, Any] = {"model": model, "partition": partition, "seed": seed}
    name = f"{model}-{partition}-{seed}"
    given = scenario(model, quick=quick, partition=partition, seed=seed)
    trained = opened(given, out / name)
    integers = quantize(trained, calibrating(trained))
    _, source, _ = plans.simulated(given)
    if source.test is None:
        raise ValueError(f"{source.name}: must have a test set")
    rows = accuracies(given, trained, **told, tail="float32")
    rows += accuracies(given, integers, **told, tail="integers")
    rows += resamples(given, trained, **told) + promises(given, trained, **told)
    both: dict[str, Trained] = {"ONNX": trained, "int8": integers}
    static = None
    if model == "vgg":
        other = scenario(model, quick=quick, partition=partition, seed=seed, static=True)
        static = opened(other, out / f"{name}-static")
        small = quantize(static, calibrating(static))
        rows.append(control(static, small, source.test, **told))
    with tempfile.TemporaryDirectory() as folder:
        rows += times(both, static, source.test.x, Path(folder), **told)
    return rows


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="digits, two rounds")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--out", type=Path, default=None, help="keep the runs in this folder")
    parser.add_argument("--model", action="append", choices=sorted(MODELS), help="default: vgg")
    parser.add_argument(
        "--partition", action="append", choices=PARTITIONS, help="default: dirichlet"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds from 1 to this, default 1")
    arguments = parser.parse_args()
    needs("onnx", "onnxscript", "onnxruntime")
    settle_process()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    print(f"{machine()}\n")
    rows: list[dict[str, Any]] = []
    wanted = (arguments.model or ("vgg",), arguments.partition or PARTITIONS[:1])
    for model, partition, seed in product(*wanted, range(1, arguments.seeds + 1)):
        found = study(model, partition, seed, out, quick=arguments.quick)
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
