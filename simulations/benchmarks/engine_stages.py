"""Where the processor time of a round goes: stage by stage, for one site, in one process.

`python -m simulations.benchmarks.engine_stages [--networks NAMES] [--links NAMES] [--rounds N]`
plays the work of `engine` by the serial engine, with a clock around each stage that is stopped
while another stage inside it runs. Seconds are the thread's own; the first round is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulations.benchmarks import engine_work as work
from simulations.benchmarks.engine import LINKS, scenario

# Where each stage begins: module, name of a function or `Class.method`, stage.
STAGES = (
    ("fedlite.training.share", "Learner.share", "training"),
    ("fedlite.training.together", "Together._many", "training"),
    ("fedlite.compression.rotated", "signs", "rotation: signs"),
    ("fedlite.compression.rotated", "rotate", "rotation, at the site"),
    ("fedlite.compression.rotated", "unrotate", "rotation, at the server"),
    ("fedlite.compression.rotated", "select", "selection"),
    ("fedlite.compression.rotated", "select_rows", "selection"),
    ("fedlite.compression.rotated", "shares", "selection: shares of layers"),
    ("fedlite.compression.layers", "encode", "positions, written"),
    ("fedlite.compression.layers", "encode_many", "positions, written"),
    ("fedlite.compression.layers", "decode", "positions, read"),
    ("fedlite.compression.layers", "decode_many", "positions, read"),
    ("fedlite.compression.topk", "TopK.decompress", "values, read"),
    ("fedlite.compression.rotated", "RotatedTopK.compress", "lengths and signs, written"),
    ("fedlite.compression.rotated", "RotatedTopK.compress_many", "lengths and signs, written"),
    ("fedlite.compression.rotated", "RotatedTopK.decompress", "reading, the rest"),
    ("fedlite.compression.rotated", "RotatedTopK.decompress_many", "reading, the rest"),
    ("fedlite.compression.dense", "Dense.compress", "dense values"),
    ("fedlite.compression.dense", "Dense.decompress", "dense values"),
    ("clients.site", "Site._receive", "broadcast, at the site"),
    ("clients.site", "save", "state of sites"),
    ("clients.site", "load", "state of sites"),
    ("clients.app", "_opened", "opening sites"),
    ("fedlite.flower", "to_bytes", "Flower's messages"),
    ("fedlite.flower", "from_bytes", "Flower's messages"),
    ("fedlite.flower", "ask", "Flower's messages"),
    ("fedlite.flower.wire", "answer", "Flower's messages"),
    ("fedlite.flower", "unwrap", "Flower's messages"),
    ("simulations.node", "Node._context", "Flower's messages"),
    ("simulations.node", "Node.handle", "at the site, the rest"),
    ("simulations.node", "Node.handle_all", "at the site, the rest"),
    ("server.asking", "Asking._instruction", "instructions"),
    ("server.updates", "Updates.add_many", "sum, bounds and lengths"),
    ("server.updates", "Updates.finish", "step of the server"),
    ("server.checkpoint", "Checkpoint.advance", "broadcast, at the server"),
    ("server.checkpoint", "save", "checkpoint and record"),
    ("server.rounds", "append_round", "checkpoint and record"),
    ("simulations.engines", "Serial.advance", "engine"),
    ("server.asking", "Asking.round", "round, the rest"),
)


class Stages:
    """Seconds of this thread by stage; of a stage within another only the inner one's count."""

    def __init__(self) -> None:
        """Nothing has been spent."""
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.thread_time()

    def _switch(self) -> None:
        now = time.thread_time()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now

    def around(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` with the clock of a stage around it; each step of a generator counts."""

        def timed(call: Callable[[], Any]) -> Any:
            self._switch()
            self._open.append(stage)
            try:
                return call()
            finally:
                self._switch()
                self._open.pop()

        @functools.wraps(work)
        def wrapped(*given: Any, **named: Any) -> Any:
            found = timed(lambda: work(*given, **named))
            if not hasattr(found, "send"):
                return found

            def steps() -> Any:
                while True:
                    try:
                        one = timed(lambda: next(found))
                    except StopIteration:
                        return
                    yield one

            return steps()

        return wrapped


def profile(network: str, links: str, rounds: int) -> dict[str, float]:
    """Return milliseconds of a site and round, by stage."""
    import importlib

    from server.rounds import Rounds
    from simulations.run import simulate

    stages = Stages()
    for module, name, stage in STAGES:
        owner: Any = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, stages.around(stage, getattr(owner, last)))
    play, marks = Rounds.play, list[dict[str, float]]()

    def playing(self: Any, **named: Any) -> Any:
        for record in play(self, **named):
            marks.append({**stages.spent, "all": time.process_time()})
            yield record

    Rounds.play = playing  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="fedlite-stages-") as folder:
        chosen = scenario(network, rounds, links)
        simulate(chosen, Path(folder) / "run", engine="serial", quiet=True)
    shares = 1e3 / (work.SITES * (len(marks) - 1))
    found = {k: (v - marks[0].get(k, 0.0)) * shares for k, v in marks[-1].items()}
    whole = found.pop("all")
    found = dict(sorted(found.items(), key=lambda pair: -pair[1]))
    return found | {"not told apart": whole - sum(found.values()), "all": whole}


def main() -> None:
    """Print a table of stages for each network and its links."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["cnn", "mlp"], choices=work.NETWORKS)
    parser.add_argument("--links", nargs="+", default=["recommended"], choices=LINKS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        network, links = arguments.one
        print(json.dumps(profile(network, links, arguments.rounds)))
        return
    for network in arguments.networks:
        for links in arguments.links:
            words = ["--one", network, links, "--rounds", str(arguments.rounds)]
            command = [sys.executable, "-m", "simulations.benchmarks.engine_stages", *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"\n| {network}, {links} | ms of a site and round |\n|---|---|")
            for stage, ms in found.items():
                print(f"| {stage} | {ms:.2f} |", flush=True)


if __name__ == "__main__":
    main()
