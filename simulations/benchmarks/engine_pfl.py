"""The engine benchmark's work in pfl-research 0.6, in an environment of its own.

Run by `simulations.benchmarks.engine --pfl PYTHON`; nothing of fedlite is there. Granqvist et al.
2024, "pfl-research: simulation framework for accelerating research in Private Federated Learning".
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
work: Any = importlib.import_module("engine_work")


def _pfl(name: str) -> Any:
    return importlib.import_module(f"pfl.{name}")


def run(network: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds and processor seconds of each round."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    made = work.NETWORKS[network](work.SHAPES[network], work.CLASSES)
    loss = torch.nn.functional.cross_entropy
    made.loss = lambda x, y, **_: loss(made(x), y)
    made.metrics = lambda x, y, **_: {}
    x, y, *_ = work.records(network)
    at = range(work.SITES)
    slices = {
        user: [
            torch.from_numpy(part[user * work.RECORDS : (user + 1) * work.RECORDS])
            for part in (x, y)
        ]
        for user in at
    }
    users = _pfl("data.sampling").get_user_sampler("minimize_reuse", list(at))
    tensors = _pfl("data.pytorch").PyTorchTensorDataset
    federated = _pfl("data.federated_dataset").FederatedDataset(
        lambda user: tensors(slices[user]), users
    )
    model = _pfl("model.pytorch").PyTorchModel(
        made, torch.optim.SGD, torch.optim.SGD(made.parameters(), lr=1.0)
    )
    ends = [(time.monotonic(), time.process_time())]

    class Clock(_pfl("callback.base").TrainingProcessCallback):  # type: ignore[misc]
        """Notes when a round ends."""

        def after_central_iteration(self, *_: Any, **__: Any) -> Any:
            ends.append((time.monotonic(), time.process_time()))
            return False, _pfl("metrics").Metrics()

    parameters = _pfl("algorithm.base").NNAlgorithmParams(
        central_num_iterations=rounds,
        evaluation_frequency=10**9,
        train_cohort_size=work.SITES,
        val_cohort_size=0,
    )
    training = _pfl("hyperparam").NNTrainHyperParams(
        local_batch_size=work.BATCH, local_num_epochs=1, local_learning_rate=work.RATE
    )
    _pfl("algorithm.federated_averaging").FederatedAveraging().run(
        algorithm_params=parameters,
        backend=_pfl("aggregate.simulate").SimulatedBackend(federated, federated),
        model=model,
        model_train_params=training,
        model_eval_params=_pfl("hyperparam").NNEvalHyperParams(local_batch_size=100),
        callbacks=[Clock()],
        send_metrics_to_platform=False,
    )
    steps = list(zip(ends, ends[1:], strict=False))
    return {
        "seconds": [after[0] - before[0] for before, after in steps],
        "cpu": [after[1] - before[1] for before, after in steps],
    }


def main() -> None:
    """Run it and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    found = run(arguments.network, arguments.rounds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(found | {"whole": sum(found["seconds"]), "bytes": 0, "memory": memory}))


if __name__ == "__main__":
    main()
