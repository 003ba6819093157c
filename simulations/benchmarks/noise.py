"""What private noise costs: samplers, and a whole private step beside Opacus's own.

Run `python -m simulations.benchmarks.noise [--quick] [--json FILE]`. Processor time of one thread,
medians of interleaved repeats. Opacus's step is its fast gradient clipping with noise from torch's
generator, whose noise can be taken off (docs/noise.md): it is what ours is compared with, not an
alternative.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fedlite import plan as plans
from fedlite.privacy import RecordMechanism, dpsgd, noise
from fedlite.scenario import load
from fedlite.training import Learner
from fedlite.training.share import settle_process
from server.summary import machine

SCENARIOS = ("quickstart", "heart", "fashion-private")
STEPS = 5
SIZES, QUICK_SIZES = (1_000, 20_640, 1_000_000), (1_000, 20_640)
REPEATS, QUICK_REPEATS = 41, 9


def draws(size: int, repeats: int) -> dict[str, Any]:
    """Return nanoseconds a draw of each sampler, for `size` draws at a time."""
    stream, torch_bits = noise.Stream.fresh(), torch.Generator()
    zeros, numpy_bits = np.zeros(size), np.random.default_rng()
    ways: dict[str, Callable[[], Any]] = {
        "fedlite, discrete, wide": lambda: stream.gaussians(size),
        "fedlite, release on the grid": lambda: noise.release(zeros, 1.0, stream),
        "torch.normal float32": lambda: torch.normal(0.0, 1.0, (size,), generator=torch_bits),
        "torch.randn float64": lambda: torch.randn(size, generator=torch_bits, dtype=torch.float64),
        "numpy normal float64": lambda: numpy_bits.normal(size=size),
    }
    seconds = interleaved(ways, repeats)
    return _row("draws", {"size": size}, "ns", {k: 1e9 * v / size for k, v in seconds.items()})


def step(name: str, repeats: int) -> dict[str, Any]:
    """Return milliseconds of a private step of a scenario, and of its noise alone."""
    scenario = load(Path(__file__).parent.parent / "scenarios" / f"{name}.toml")
    whole, _, sites = plans.simulated(scenario)
    plan, learner = whole.mechanism, Learner(whole, sites[0].train)
    if not isinstance(plan, RecordMechanism):
        raise ValueError(f"{name}: must be private by record")
    zeros, stream = np.zeros(learner.layout.size), noise.Stream.fresh()

    def bits() -> None:
        for _ in range(STEPS):
            dpsgd.poisson_sample(len(learner.labels), plan.sampling_rate, stream)
            noise.release(zeros, plan.noise_std, stream)

    ways = {
        "fedlite, a step": lambda: _ours(learner, plan),
        "Opacus, a step": lambda: _opacus(learner, plan),
        "noise and sampling of a step": bits,
    }
    figures = {k: 1e3 * v / STEPS for k, v in interleaved(ways, repeats).items()}
    told = {"scenario": name, "values": learner.layout.size, "records": len(learner.labels)}
    row = _row("private step", told, "ms", figures)
    row["figures"] |= {
        "step to Opacus's": figures["fedlite, a step"] / figures["Opacus, a step"],
        "noise in the step": figures["noise and sampling of a step"] / figures["fedlite, a step"],
    }
    row["units"] |= {"step to Opacus's": "ratio", "noise in the step": "share"}
    return row


def _ours(learner: Learner, plan: RecordMechanism) -> None:
    dpsgd.train(
        learner.model,
        learner.inputs,
        learner.labels,
        learner.loss,
        plan,
        steps=STEPS,
        learning_rate=0.1,
        sampler=noise.Stream.fresh(),
        noise=noise.Stream.fresh(),
    )


def _opacus(learner: Learner, plan: RecordMechanism) -> None:
    """Opacus as its documentation uses it: two passes, float32, torch's generator."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        learner.model, max_grad_norm=plan.clip, loss_reduction="sum", strict=False
    )
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(trained, lr=0.1),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip,
        expected_batch_size=plan.expected_batch,
        loss_reduction="mean",
        generator=torch.Generator(),
    )
    learner.model.train()
    sampler = np.random.default_rng()
    try:
        for _ in range(STEPS):
            taken = sampler.random(len(learner.labels)) < plan.sampling_rate
            chosen = torch.from_numpy(np.flatnonzero(taken))
            optimizer.zero_grad(set_to_none=True)
            wrapped.enable_hooks()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                losses = learner.loss(wrapped(learner.inputs[chosen]), learner.labels[chosen])
                DPTensorFastGradientClipping(wrapped, optimizer, losses, "sum").backward()
            optimizer.step()
    finally:
        wrapped.to_standard_module()


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median processor seconds of each call, taken in turns, after one to warm up."""
    for call in ways.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, call in ways.items():
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    return {name: median(values) for name, values in seconds.items()}


def _row(what: str, told: dict[str, Any], unit: str, figures: dict[str, float]) -> dict[str, Any]:
    return {
        "what": what,
        "parameters": told,
        "figures": figures,
        "units": dict.fromkeys(figures, unit),
    }


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, without fashion")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    settle_process()
    quick = arguments.quick
    repeats = QUICK_REPEATS if quick else REPEATS
    found = [draws(size, repeats) for size in (QUICK_SIZES if quick else SIZES)]
    found += [step(name, repeats) for name in (SCENARIOS[:2] if quick else SCENARIOS)]
    print(f"{machine()}\n")
    for row in found:
        print(f"{row['what']} ({', '.join(f'{v} {k}' for k, v in row['parameters'].items())})")
        for name, value in row["figures"].items():
            print(f"  {name:32} {value:10.4g} {row['units'][name]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
