"""What a server of bundles can take: batches against none, many rows, overload, and its memory.

`python -m simulations.benchmarks.serving [--quick] [--json FILE] [--minutes M] [--seconds S]
[--repeats N] [--memory] [--clients N] [--pause S]` trains a small network on digits, exports it,
serves it on loopback, and asks it from another process by 32 clients of which each waits for its
answer before it asks again. Alternatives take turns. Both processes are in Python and share the
machine, so ratios say more than rates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedlite.inference.serving import protocol
from simulations.benchmarks.lab import (
    FEDLITE,
    cpu_seconds,
    end,
    family,
    free_port,
    start,
    tail,
    wait_for,
)

CLIENTS, ROWS = 32, 64
ALONE = ("--batch-rows", 1, "--wait-ms", 0)
# A queue that is full at once, for overload.
SHORT = ("--queue-rows", 64, "--request-rows", 64)
SCENARIO: dict[str, Any] = {
    "federation": {"name": "served", "rounds": 5, "sites": 2, "weighting": "records"},
    "model": {"name": "cnn"},
    "training": {"epochs": 2, "learning_rate": 0.1},
    "inference": {"calibration": 0.3, "alpha": 0.05},
}
SHAPE = (1, 8, 8)
METHOD = f"/{protocol.INFERENCE}/ModelInfer"


@dataclass(frozen=True)
class Load:
    """What clients do. seconds: how long; rows: of a request; pause: seconds after each answer."""

    address: str
    clients: int
    rows: int
    seconds: float
    pause: float = 0.0


def ask(load: Load) -> dict[str, Any]:
    """Return milliseconds of each answered request, and how often each code came."""
    return asyncio.run(_ask(load))


async def _ask(load: Load) -> dict[str, Any]:
    import grpc

    rng = np.random.default_rng(0)
    kind = protocol.message("inference.ModelInferRequest")
    requests = []
    for _ in range(16):
        request = kind(model_name="served")
        request.inputs.add(name="x", datatype="FP32", shape=[load.rows, *SHAPE])
        x = rng.uniform(0, 1, (load.rows, *SHAPE)).astype("<f4")
        request.raw_input_contents.append(x.tobytes())
        request.outputs.add(name="class")
        requests.append(request.SerializeToString())
    took: list[float] = []
    codes: dict[str, int] = {}
    began = time.perf_counter()
    until = began + load.seconds

    async def client(number: int) -> None:
        # A connection of its own, as of another machine.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(load.address, options=options) as channel:
            call = channel.unary_unary(METHOD)
            at = number
            while (asked := time.perf_counter()) < until:
                at += 1
                try:
                    await call(requests[at % len(requests)], timeout=30)
                    took.append(1000 * (time.perf_counter() - asked))
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] = codes.get(error.code().name, 0) + 1
                await asyncio.sleep(load.pause)

    await asyncio.gather(*(client(number) for number in range(load.clients)))
    return {"ms": took, "codes": codes, "seconds": time.perf_counter() - began}


@contextmanager
def serving(bundle: Path, root: Path, *options: object) -> Iterator[tuple[str, int]]:
    """Serve a bundle, and give the address and the process."""
    port = free_port()
    words = (FEDLITE, "serve", bundle, "--port", port, *options)
    process = start(words, dict(os.environ), root)
    try:
        wait_for(
            "the server", lambda: process.poll() is not None or f":{port}\n" in tail(root), 120
        )
        if process.poll() is not None:
            raise RuntimeError(tail(root))
        yield f"127.0.0.1:{port}", process.pid
    finally:
        end([process])


def measured(load: Load, pid: int) -> dict[str, Any]:
    """Let clients in another process ask, and return what came of it."""
    before = cpu_seconds([pid])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(ask, (load,))
    ms = found["ms"] or [float("nan")]
    answered = len(found["ms"])
    return {
        "requests/s": answered / found["seconds"],
        "rows/s": load.rows * answered / found["seconds"],
        "p50 ms": float(np.percentile(ms, 50)),
        "p99 ms": float(np.percentile(ms, 99)),
        "refused": found["codes"].get("RESOURCE_EXHAUSTED", 0),
        "other codes": sum(found["codes"].values()) - found["codes"].get("RESOURCE_EXHAUSTED", 0),
        "server CPU ms a request": 1000 * (cpu_seconds([pid]) - before) / max(1, answered),
    }


def batching(bundle: Path, root: Path, seconds: float, repeats: int) -> list[dict[str, Any]]:
    """Return batches against none, in turns, and the median of the ratios."""
    found: dict[str, list[dict[str, Any]]] = {"batches": [], "one by one": []}
    ways: dict[str, tuple[object, ...]] = {"batches": (), "one by one": ALONE}
    for _ in range(repeats):
        for name, options in ways.items():
            with serving(bundle, root, *options) as (address, pid):
                measured(Load(address, CLIENTS, 1, 1.0), pid)
                found[name].append(measured(Load(address, CLIENTS, 1, seconds), pid))
    rows = [
        _row(
            name, {"clients": CLIENTS, "rows": 1}, {k: median(r[k] for r in each) for k in each[0]}
        )
        for name, each in found.items()
    ]
    pairs = list(zip(found["batches"], found["one by one"], strict=True))
    ratios = {
        f"{name}, ratio": median(one[name] / other[name] for one, other in pairs)
        for name in ("requests/s", "p99 ms", "server CPU ms a request")
    }
    return [*rows, _row("batches against one by one", {"repeats": repeats}, ratios)]


def many_rows(bundle: Path, root: Path, seconds: float) -> dict[str, Any]:
    """Return what requests of many rows come to."""
    with serving(bundle, root) as (address, pid):
        measured(Load(address, CLIENTS, ROWS, 1.0), pid)
        found = measured(Load(address, CLIENTS, ROWS, seconds), pid)
    return _row("many rows", {"clients": CLIENTS, "rows": ROWS}, found)


def overload(bundle: Path, root: Path, seconds: float) -> dict[str, Any]:
    """Return what becomes of four times as many clients as there is room for rows."""
    with serving(bundle, root, *SHORT) as (address, pid):
        found = measured(Load(address, 4 * CLIENTS, 4, seconds), pid)
    return _row("overload", {"clients": 4 * CLIENTS, "rows": 4, "queue": 64}, found)


def memory(bundle: Path, root: Path, minutes: float, load: Load) -> dict[str, Any]:
    """Return resident memory over time under a load; its address and seconds are not used."""
    keep = root / "kept"
    points = 10
    with serving(bundle, root, "--cache", 1000, "--keep", keep) as (address, pid):
        part = replace(load, address=address, seconds=60 * minutes / points)
        answered, over = 0.0, {}
        for at in range(1, points + 1):
            answered += measured(part, pid)["requests/s"] * part.seconds
            over[f"after {minutes * at / points:g} min, MiB"] = (
                sum(one.rss for one in family([pid])) / 2**20
            )
    early, *_, late = over.values()
    figures = over | {"grown %": 100 * (late / early - 1), "requests": answered}
    told = {"minutes": minutes, "clients": load.clients, "rows": load.rows, "pause": load.pause}
    return _row("memory", told, figures)


def _row(what: str, told: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    units = {name: name.rpartition(" ")[2] if " " in name else name for name in figures}
    return {"what": what, "parameters": told, "figures": figures, "units": units}


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two seconds each, once")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the load for memory")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the other loads")
    parser.add_argument("--repeats", type=int, default=5, help="of batches against none")
    parser.add_argument("--memory", action="store_true", help="memory alone")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="of the load for memory")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each answer of it")
    arguments = parser.parse_args()
    # Clients are another process, which imports this module, and needs none of it.
    from fedlite.evaluation import open_model
    from fedlite.inference.graphs import needs
    from fedlite.inference.release import write_bundle
    from fedlite.scenario import from_dict
    from fedlite.training.share import settle_process
    from server.summary import machine
    from simulations.run import simulate

    needs("onnx", "onnxscript", "onnxruntime", "grpc_reflection")
    settle_process()
    quick = arguments.quick
    seconds, repeats = (2.0, 1) if quick else (arguments.seconds, arguments.repeats)
    print(f"{machine()}\n")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fedlite-bench-") as folder:
        root = Path(folder)
        simulate(from_dict(SCENARIO), root / "run", engine="serial", quiet=True)
        bundle = root / "bundle"
        write_bundle(open_model(root / "run"), bundle)

        def show(*found: dict[str, Any]) -> None:
            for row in found:
                told = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
                figures = ", ".join(f"{name} {value:.4g}" for name, value in row["figures"].items())
                print(f"{row['what']} ({told}): {figures}", flush=True)
                rows.append(row)

        if not arguments.memory:
            show(*batching(bundle, root, seconds, repeats))
            show(many_rows(bundle, root, seconds))
            show(overload(bundle, root, seconds))
        load = Load("", arguments.clients, 4, 0.0, arguments.pause)
        show(memory(bundle, root, 0.1 if quick else arguments.minutes, load))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
