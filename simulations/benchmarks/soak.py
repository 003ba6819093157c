"""A hundred sites on one coordinator: seconds per round, its memory from round to round, errors.

Run `python -m simulations.benchmarks.soak [--sites N] [--rounds N] [--quick] [--json FILE]`. The
coordinator is the real one: gateway, TLS, node keys, a SuperLink and a run in processes of their
own. The sites are threads of this process, each with its keys and its own connection, enrolled and
approved as others are; they answer every round with the same recorded update, so that the seconds
are those of the machinery and not of a hundred trainings on one machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

import fedlite
from clients.runtime.fleet import Fleet, Incoming, Refused, RunOver, Unreachable
from clients.runtime.pace import Pace
from fedlite import compression, flower, plan as plans
from fedlite.data.spread import load_source
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.request import Request
from fedlite.identity import keys, nodekey
from fedlite.messages import Hello, Instruction
from fedlite.scenario import Scenario, load
from server.coordinator import enrolment
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.summary import machine
from simulations.benchmarks.lab import Lab, cpu_seconds, lines, rss_by_role, tail
from simulations.run import scenario_path

SITES, ROUNDS = 100, 20
QUICK_SITES, QUICK_ROUNDS = 20, 5
# After so many rounds everything has been loaded, and memory should grow no more.
SETTLED = 3
# Of the sites, for a round to count.
QUORUM = 0.9
_LARGEST = 10_000_000
_LOOK_SECONDS = 0.05
_LONGEST = 3600.0
# Flower's word for whose a message is belongs to the process, and here are many sites in one.
_IDENTITY = threading.Lock()


def settings(sites: int, rounds: int) -> tuple[str, ...]:
    """Return what the soak changes in the quickstart: nothing private, no accuracy measured."""
    values = {
        "federation.name": "soak",
        "federation.sites": sites,
        "federation.quorum": round(QUORUM * sites),
        "federation.rounds": rounds,
        "federation.evaluate_every": 0,
        "privacy.unit": "none",
        "training.learning_rate": 1.0,
    }
    return tuple(f"{key}={value}" for key, value in values.items())


@dataclass(frozen=True)
class Recording:
    """What every site answers: the layout's digest, and the body of one small update."""

    layout: bytes
    codec: int
    body: bytes

    @classmethod
    def of(cls, scenario: Scenario) -> Recording:
        """Compress a constant update as a site of this scenario would.

        Its codec must not depend on the round, as that of the quickstart does not.
        """
        source = load_source(scenario.data, scenario.task.reads)
        plan = plans.of(scenario, source.shape, source.classes)
        layout, compressor = plan.layout, plan.uplink
        context = compression.Context(bytes(12), 1)
        delta = np.full(layout.size, 1e-4, np.float32)
        sent = compression.compress(compressor, delta, None, reference=None, context=context)
        return cls(layout.digest, compressor.codec, sent.body)

    def frame(self, instruction: Instruction) -> bytes:
        """Return the update as a valid frame for this round, run, site and model."""
        envelope = compression.Envelope(
            run=instruction.run,
            round=instruction.round,
            site=instruction.site,
            layout=self.layout,
            base=instruction.model,
        )
        return compression.pack(envelope, self.codec, self.body)


class Site(threading.Thread):
    """A site that answers without training."""

    def __init__(
        self, name: str, fleet: Fleet, recording: Recording, stop: threading.Event
    ) -> None:
        """Prepare the thread; nothing is sent before it starts."""
        super().__init__(name=name, daemon=True)
        self.fleet, self.recording, self.stop = fleet, recording, stop
        self.errors: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Answer until told to stop."""
        active, pace = False, Pace()
        while not self.stop.is_set():
            try:
                if not active:
                    self.fleet.activate()
                    active = True
                self.counts["asked"] += 1
                asked = time.monotonic()
                incoming = self.fleet.receive()
                if incoming is None:
                    self.stop.wait(pace.pause(time.monotonic() - asked))
                else:
                    self._answer(incoming)
                    pace.answered(incoming.run)
            except (Unreachable, Refused, RunOver) as error:
                self.errors[f"{type(error).__name__}: {error}"[:120]] += 1
                self.stop.wait(1.0)

    def _answer(self, incoming: Incoming) -> None:
        message = self.fleet.content(incoming, _LARGEST)
        self.fleet.confirm(incoming)
        if message.metadata.message_type == "query":
            layout = self.recording.layout.hex()
            blob = Hello(self.name, layout, fedlite.__version__).encode()
        else:
            blob = self.recording.frame(Instruction.decode(flower.unwrap(message)))
        with _IDENTITY:
            flower.identify(incoming.run, self.fleet.node_id)
            reply = flower.answer(blob, message)
        self.fleet.push(reply)
        self.counts["answered"] += 1


def enrol(lab: Lab, count: int, recording: Recording, stop: threading.Event) -> list[Site]:
    """Make the keys of so many sites, approve their requests, and return them, not yet started."""
    coordinator = Coordinator.open(lab.coordinator)
    invitation = Invitation.decode(coordinator.invitation.read_bytes())
    control, sites = Control(coordinator), []
    for number in range(1, count + 1):
        name = f"site-{number:03}"
        folder = lab.root / "sites" / name
        folder.mkdir(parents=True, mode=0o700)
        node = nodekey.load_or_generate(folder / "node.pem")
        ledger = keys.generate(folder / "ledger.pem")
        request = Request(
            site=name,
            node_key=nodekey.public(node),
            ledger_key=keys.public_hex(ledger),
            invitation=invitation.fingerprint,
            fedlite=fedlite.__version__,
        )
        (folder / "request.json").write_bytes(request.encode(node, ledger))
        enrolment.approve(coordinator, folder / "request.json", control, lambda question: True)
        fleet = Fleet(invitation.address, invitation.ca_pem.encode(), node)
        sites.append(Site(name, fleet, recording, stop))
    control.close()
    return sites


@dataclass(frozen=True)
class Sample:
    """The coordinator after a round: when, its resident bytes by process, its CPU seconds."""

    seconds: float
    rss: dict[str, int]
    cpu: float


def memory(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return one row a kind of process: MB after round 3, at the end, and growth per round."""
    at = min(SETTLED, len(samples)) - 1
    first, last, between = samples[at].rss, samples[-1].rss, max(len(samples) - 1 - at, 1)
    both = {role: (first[role], last.get(role, 0)) for role in sorted(first)}
    both["all"] = (sum(first.values()), sum(last.values()))
    return [
        {
            "process": role,
            "settled": before / 1e6,
            "end": after / 1e6,
            "growth": (after - before) / 1e6 / between,
        }
        for role, (before, after) in both.items()
    ]


def rates(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile and longest of the seconds of rounds.

    >>> rates([1.0, 2.0, 3.0])
    {'p50': 2.0, 'p95': 2.9, 'max': 3.0}
    """
    found = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else [*seconds] * 19
    return {"p50": round(found[9], 3), "p95": round(found[18], 3), "max": round(max(seconds), 3)}


def soak(sites: int, rounds: int, root: Path) -> dict[str, Any]:
    """Play so many rounds with so many sites and return all that was measured."""
    changed = settings(sites, rounds)
    recording = Recording.of(load(scenario_path("quickstart"), list(changed)))
    stop = threading.Event()
    members: list[Site] = []
    with Lab(root) as lab:
        try:
            members = enrol(lab, sites, recording, stop)
            for member in members:
                member.start()
            begun = time.monotonic()
            words = [word for change in changed for word in ("--set", change)]
            run = lab.start("server", "submit", "quickstart", *words)
            samples = _watch(run, lab)
            records = [json.loads(line) for line in lab.rounds("soak").read_text().splitlines()]
        finally:
            stop.set()
            for member in members:
                if member.ident is not None:
                    member.join(60)
    spaces = [b.seconds - a.seconds for a, b in pairwise(samples)]
    errors: Counter[str] = sum((member.errors for member in members), Counter())
    for record in records:
        errors += Counter(f"dropped: {code}" for code in record["dropped"].values())
        errors["missing"] += len(record["missing"])
    counts: Counter[str] = sum((member.counts for member in members), Counter())
    return {
        "sites": sites,
        "rounds": len(records),
        "accepted": sum(record["accepted"] for record in records),
        "first": samples[0].seconds - begun,
        "seconds": rates(spaces),
        "cpu": (samples[-1].cpu - samples[0].cpu) / max(len(spaces), 1),
        "memory": memory(samples),
        "errors": dict(+errors),
        "questions": counts["asked"],
        "answers": counts["answered"],
        "bytes_up": sum(record["bytes_up"] for record in records),
        "bytes_down": sum(record["bytes_down"] for record in records),
    }


def _watch(run: subprocess.Popen[bytes], lab: Lab) -> list[Sample]:
    """Return a sample after each round of the run, which must succeed."""
    path = lab.rounds("soak")
    samples: list[Sample] = []
    until = time.monotonic() + _LONGEST
    while True:
        over = run.poll() is not None
        if lines(path) > len(samples):
            now = time.monotonic()
            samples.append(Sample(now, rss_by_role([lab.pid]), cpu_seconds([lab.pid])))
        elif over:
            break
        if time.monotonic() > until:
            run.kill()
        time.sleep(_LOOK_SECONDS)
    if run.returncode or not samples:
        raise RuntimeError(f"the run ended with {run.returncode}: {tail(lab.root)}")
    return samples


def table(found: dict[str, Any]) -> str:
    """Return what was measured as two tables in Markdown and a line of errors."""
    seconds = found["seconds"]
    row = (
        f"| {found['sites']} | {found['rounds']} | {found['accepted']} | {seconds['p50']:.2f} "
        f"| {seconds['p95']:.2f} | {seconds['max']:.2f} | {found['cpu']:.1f} "
        f"| {found['bytes_up']:,} | {found['bytes_down']:,} |"
    )
    told = ", ".join(f"{count} x {what}" for what, count in sorted(found["errors"].items()))
    return "\n".join(
        [
            "| sites | rounds | updates used | p50 s | p95 s | max s | CPU s a round "
            "| bytes up | bytes down |",
            "|" + "---|" * 9,
            row,
            "",
            f"| process | MB after round {SETTLED} | MB at the end | MB a round |",
            "|" + "---|" * 4,
            *(
                f"| {r['process']} | {r['settled']:.1f} | {r['end']:.1f} | {r['growth']:.2f} |"
                for r in found["memory"]
            ),
            "",
            f"errors: {told or 'none'}; questions of sites: {found['questions']}, answers: "
            f"{found['answers']}; first round after {found['first']:.1f} s",
        ]
    )


def main() -> None:
    """Run the soak and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--sites", type=int, default=None, help=f"default: {SITES}")
    parser.add_argument("--rounds", type=int, default=None, help=f"default: {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="20 sites, 5 rounds")
    parser.add_argument("--json", type=Path, default=None, help="write what was measured there")
    arguments = parser.parse_args()
    sites, rounds = (QUICK_SITES, QUICK_ROUNDS) if arguments.quick else (SITES, ROUNDS)
    sites, rounds = arguments.sites or sites, arguments.rounds or rounds
    with tempfile.TemporaryDirectory(prefix="fedlite-bench-") as root:
        found = soak(sites, rounds, Path(root))
    print(f"{machine()}\n\n{table(found)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
