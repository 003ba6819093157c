"""What a finished run says of itself: `summary.json`, and the model as files."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import fedlite
from fedlite import depth
from fedlite.data.overview import overview
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.privacy import SharedMechanism, accounting
from fedlite.protection import counting_mechanism
from fedlite.registry import label
from fedlite.reporting.attendance import rested
from fedlite.reporting.record import WEAK, WHOLE, RoundRecord, total_bytes
from fedlite.reporting.virtual import network_of
from fedlite.scenario import Scenario
from server.checkpoint import Checkpoint, SiteRecord
from server.evaluation import Evaluator
from server.witness import Witness

_PACKAGES = ("flwr", "torch", "opacus", "dp-accounting", "numpy")


def privacy_of(
    plan: Plan,
    records: dict[str, SiteRecord],
    seen: Callable[[str], int] | None = None,
) -> dict[str, Any]:
    """Return the privacy part of the summary.

    A site's loss is that of the whole plan, however early the run or the site stopped: whether it
    did may have depended on what had been released. Where counts are asked for under noise, it is
    that of training and of these together, whether or not a site has told them. `prefix` tells what
    the training steps that were asked of it would have cost, had their number been fixed
    beforehand; it bounds nothing.

    seen(site) returns how many updates the witness has seen; without it, those that arrived count.
    """
    scenario, mechanism = plan.scenario, plan.mechanism
    if mechanism is None:
        return {"unit": "none"}
    privacy, counts = scenario.privacy, counting_mechanism(scenario)
    if counts is None:
        loss = accounting.spent(mechanism, mechanism.steps, privacy.delta)
    else:
        loss = accounting.spent_together([mechanism, counts], privacy.delta)
    sites = {}
    for name, record in sorted(records.items()):
        steps = min(record.asked * plan.round_steps, mechanism.steps)
        sites[name] = {
            "epsilon": {"pld": loss.pld, "prv": loss.prv, "rdp": loss.rdp},
            "prv_error": loss.prv_error,
            "accountants_agree": loss.agree,
            "budget": privacy.epsilon + scenario.inference.epsilon,
            "releases": seen(name) if seen else record.releases,
            "prefix": {
                "steps": steps,
                "epsilon": accounting.running(mechanism, steps, privacy.delta),
            },
            "out_of_budget": record.spent,
        }
    shared = shared_of(plan.shared, privacy.delta) if plan.shared else {}
    found: dict[str, Any] = shared | {
        "unit": privacy.unit,
        "noise_at": privacy.noise_at,
        "adjacency": mechanism.adjacency,
        "claimed": scenario.claims_privacy,
        "delta": privacy.delta,
        "clip": mechanism.clip,
        "noise_multiplier": mechanism.noise_multiplier,
        "sampling_rate": mechanism.sampling_rate,
        "steps": mechanism.steps,
        "expected_batch": privacy.expected_batch,
        "sites": sites,
    }
    if counts is not None:
        found["counts"] = {
            "epsilon": scenario.inference.epsilon,
            "noise_multiplier": counts.noise_multiplier,
        }
    return found


def records_of(point: Checkpoint) -> dict[str, SiteRecord]:
    """Return what is remembered of each site that was ever there, also of those never asked."""
    return {name: point.sites.get(name, SiteRecord()) for name in point.joined}


def shared_of(mechanism: SharedMechanism, delta: float) -> dict[str, Any]:
    """Return what epsilon rests on where sites share the noise, as `{"shared": ...}`.

    epsilon: by how many of the sites are honest, of whom as many may be missing in a sum as the
    quorum lets. alone: what is left when all others collude with the server.
    """
    losses = {n: round(loss, 4) for n, loss in accounting.table(mechanism, delta).items()}
    divided = {"groups": mechanism.groups} if mechanism.groups > 1 else {}
    return {
        "shared": {
            "sites": mechanism.sites,
            "least": mechanism.least,
            "honest": mechanism.honest,
            "noise_of": mechanism.carried,
            "epsilon": {str(n): epsilon for n, epsilon in losses.items()},
            "alone": losses[min(losses)],
            "coordinates": mechanism.coordinates,
            "bits": mechanism.bits,
            **divided,
        }
    }


def kinds_of(plan: Plan, point: Checkpoint, records: list[RoundRecord]) -> dict[str, Any]:
    """Return what sites of each kind came to, where some train the shallow branch alone.

    Totals over the rounds of what they sent and got, in bytes, and in a simulation the processor
    seconds of their messages; and in how many rounds no site was used that trains the tail.
    """
    found: dict[str, Any] = {}
    for kind, one in zip((WHOLE, WEAK), depth.kinds(plan), strict=True):
        rows = [record.kinds[kind] for record in records if kind in record.kinds]
        names = sorted(name for name in point.joined if (name in plan.weak) == (kind == WEAK))
        totals = {key: sum(row[key] for row in rows) for key in ("used", "up", "down")}
        found[kind] = {"sites": names, "parameters": one.layout.size, **totals}
        if rows and all("cpu_seconds" in row for row in rows):
            found[kind]["cpu_seconds"] = round(sum(row["cpu_seconds"] for row in rows), 2)
    still = [r for r in records if r.accepted and not r.kinds.get(WHOLE, {}).get("used")]
    return found | {"tail stood still": len(still)}


def data_of(scenario: Scenario, evaluator: Evaluator | None, engine: str) -> dict[str, Any]:
    """Return where the records came from and, where nobody's are betrayed by it, what they are.

    Exact counts, which no epsilon covers, are those of a simulation that claims none.
    """
    found = {
        "name": scenario.data.dataset,
        "partition": label(scenario.data.partition),
        "origin": evaluator.source.origin if evaluator else "the sites' own files",
        "at_sites": evaluator is None,
    }
    if evaluator is None or engine == "network" or scenario.claims_privacy:
        return found
    return found | {"read": overview(evaluator.source, evaluator.sites)}


def scores_of(evaluator: Evaluator | None, vector: Vector) -> dict[str, Any]:
    """Return the parts `accuracy`, `auc` and `scores` for the released model.

    `accuracy` says on what everything was measured, and holds a figure where the task has that
    score; `auc` is there where the task has it. `scores` holds the task's others, by name. Without
    an evaluator, as where only the sites hold records, there is no figure.
    """
    if evaluator is None:
        return {"accuracy": {"by_site": {}}}
    overall, sites = evaluator.overall(vector), evaluator.by_site(vector)
    held = {site.name: len(site.test) for site in evaluator.sites}
    found: dict[str, Any] = {
        name: {
            **figures,
            "by_site": {site: scores[name] for site, scores in sites.items() if name in scores},
        }
        for name, figures in overall.items()
    }
    measured = found.pop("accuracy", {"by_site": {}})
    result: dict[str, Any] = {
        "accuracy": {
            **measured,
            "on": evaluator.on,
            "of": "sites" if evaluator.source.test is None else "global test set",
            "records": evaluator.records,
            "by_site": {
                site: {**measured["by_site"].get(site, {}), "records": held[site]} for site in sites
            },
        }
    }
    if "auc" in found:
        result["auc"] = found.pop("auc")
    return result | ({"scores": found} if found else {})


def summarize(
    plan: Plan,
    point: Checkpoint,
    records: list[RoundRecord],
    *,
    engine: str,
    evaluator: Evaluator | None,
    energy: dict[str, Any],
    refused: Iterable[str] = (),
    witness: Witness | None = None,
    selection: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the summary of a finished run; `refused` has a code for each site not let in."""
    scenario = plan.scenario
    seen = partial(witness.releases, point.run.hex()) if witness else None
    seconds = [r.seconds for r in records]
    cpu = sum(r.cpu_seconds for r in records)
    summary: dict[str, Any] = {
        "scenario": scenario.federation.name,
        "seed": scenario.federation.seed,
        "run": point.run.hex(),
        "rounds": point.round,
        "planned_rounds": scenario.federation.rounds,
        "sites": sorted(point.joined),
        "parameters": plan.layout.size,
        "engine": engine,
        "versions": versions(),
        "machine": machine(),
        "data": data_of(scenario, evaluator, engine),
        "model": {"name": label(scenario.model.name), "costs": plan.model().costs()},
        "task": scenario.task.name,
        "settings": scenario.notable(),
        "bytes": total_bytes(records),
        "updates": {
            "accepted": sum(r.accepted for r in records),
            "dropped": sum(len(r.dropped) for r in records),
            "missing": sum(len(r.missing) for r in records),
            "cut": sum(len(r.cut) for r in records),
        },
        "jumps": {str(r.round): r.jump for r in records if r.jump},
        "rested": rested(records),
        "refused": sorted(refused),
        "privacy": privacy_of(plan, records_of(point), seen),
        "disclosed": ["records"] if scenario.federation.weighting == "records" else [],
        "seconds": {
            "total": round(sum(seconds), 2),
            "round_median": round(median(seconds), 4) if seconds else 0.0,
        },
        "cpu_seconds": round(cpu, 2),
        "energy": energy,
    }
    if scenario.network.profile and engine != "network":
        network = scenario.network
        summary["network"] = network_of(
            records,
            profile=network.profile,
            target=network.target,
            # With a buffer a step waits for others meanwhile.
            deadline=math.inf if network.buffer else scenario.federation.deadline_seconds,
            needed=scenario.federation.participants,
        )
    if plan.weak:
        summary["kinds"] = kinds_of(plan, point, records)
    if plan.extras:
        summary["extras"] = [stretch.name for stretch in plan.extras]
    if selection:
        summary["selection"] = dict(selection)
    return summary | scores_of(evaluator, point.deployed)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"fedlite": fedlite.__version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def machine() -> str:
    """Return the number of cores and the processor, for a person."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration, IndexError):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {name}"
