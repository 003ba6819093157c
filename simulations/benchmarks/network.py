"""How many minutes a federation takes on a network, by compressor: virtual time, one training each.

`python -m simulations.benchmarks.network` trains digits at twenty sites, ten of them a round, with
every pair of links, and prints for each network the virtual minutes to a target accuracy: fibre,
4G and a LoRa-like line. Further rows: over-selection, and FedBuff beside rounds at the same number
of updates, where sites differ and some drop out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from fedlite import plan as plans
from fedlite.reporting.record import RoundRecord, read_rounds, read_summary
from fedlite.reporting.virtual import minutes, network_of
from fedlite.scenario import Scenario, from_dict
from server.clock import Clock
from server.summary import machine
from simulations.run import simulate

NETWORKS = ("fibre", "4g", "lora")
DENSE: dict[str, Any] = {"compressor": "dense", "error_feedback": False}
TOPK: dict[str, Any] = {"compressor": "topk", "values": "levels-2"}
ROTATED: dict[str, Any] = {"compressor": "rotated-topk", "error_feedback": False}
LINKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense / dense": (DENSE, DENSE),
    "eden 1 bit / dense": ({"compressor": "eden", "error_feedback": False}, DENSE),
    "rotated 10 % / dense": (ROTATED | {"density": 0.1}, DENSE),
    "rotated 10 % / topk 7 %": (ROTATED | {"density": 0.1}, TOPK | {"density": 0.07}),
    "topk 3 % / topk 7 %": (TOPK | {"density": 0.03}, TOPK | {"density": 0.07}),
}
SITES, ASKED = 20, 10
# Sites that differ, some of which never answer.
UNEVEN = {"spread": 1.0, "dropout": 0.05}
DEADLINE = {"fibre": 60.0, "4g": 60.0, "lora": 600.0}


def configure(
    links: str, network: str, seed: int, rounds: int, more: Mapping[str, Any]
) -> Scenario:
    """Return the scenario of one run; more: further keys of `[network]`."""
    up, down = LINKS[links]
    return from_dict(
        {
            "federation": {
                "name": f"network {links.replace('/', 'and')}",
                "rounds": rounds,
                "sites": SITES,
                "seed": seed,
                "participation": ASKED / SITES,
                "deadline_seconds": DEADLINE[network],
                "weighting": "records",
            },
            "data": {
                "name": "digits",
                "partition": "dirichlet",
                "alpha": 1.0,
                "test_fraction": 0.0,
            },
            "model": {"name": "cnn"},
            "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.5},
            "uplink": up,
            "downlink": down,
            "network": {"profile": network, **more},
        }
    )


def played(scenario: Scenario, folder: Path) -> Path:
    """Return the directory of a run, which is kept in `folder` under its settings."""
    name = hashlib.sha256(scenario.to_toml().encode()).hexdigest()[:16]
    if not (folder / name / "summary.json").exists():
        simulate(scenario, folder / name, engine="serial", quiet=True)
    return folder / name


def told(
    network: str, records: Sequence[RoundRecord], directory: Path, target: float
) -> dict[str, Any]:
    """Return a run's summary, with the time until the target by these records."""
    part = network_of(records, profile=network, target=target)
    return read_summary(directory) | {"network": part}


def timed(network: str, scenario: Scenario, directory: Path, target: float) -> dict[str, Any]:
    """Return the summary of a run whose rounds are timed on another network.

    Without dropout or over-selection it trains the same model there. The bytes of a round are
    taken to be the same for all of its sites, which for `topk` is so to about a hundredth.
    """
    tables = scenario.to_dict()
    other = from_dict(tables | {"network": {**tables["network"], "profile": network}})
    plan, _, sites = plans.simulated(other)
    clock, records = Clock.of(plan, sites), []
    for record in read_rounds(directory):
        names = record.asked or [site.name for site in sites]
        up, down = record.bytes_up // len(names), record.bytes_down // len(names)
        seconds = max(clock.seconds(name, down=down, up=up) for name in names)
        records.append(replace(record, simulated_seconds=seconds))
    return told(network, records, directory, target)


def row(name: str, network: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one way on one network, means over the seeds.

    minutes: to the target; None where not every seed came there.
    """
    times = [one["network"]["seconds_to_target"] for one in found]
    return {
        "way": name,
        "network": network,
        "seeds": len(found),
        "reached": sum(time is not None for time in times),
        "seconds": mean(t for t in times if t is not None) if all(times) else None,
        "whole": mean(one["network"]["seconds"] for one in found),
        "deep": mean(one["accuracy"]["deep"] for one in found),
        "up": mean(one["bytes"]["up"] / one["updates"]["accepted"] for one in found),
        "down": mean(one["bytes"]["down"] / one["updates"]["accepted"] for one in found),
        "updates": mean(one["updates"]["accepted"] for one in found),
        "staleness": mean(one["network"]["staleness"] for one in found),
    }


def render(rows: Sequence[Mapping[str, Any]], networks: Sequence[str]) -> str:
    """Return a table in Markdown: a row a way, a column a network."""
    lines = [
        "| up / down | updates | bytes up | bytes down | deep | staleness | "
        + " | ".join(f"{n}: to target" for n in networks)
        + " | "
        + " | ".join(f"{n}: whole run" for n in networks)
        + " |",
        "|" + "---|" * (6 + 2 * len(networks)),
    ]
    for way in dict.fromkeys(one["way"] for one in rows):
        mine = {one["network"]: one for one in rows if one["way"] == way}
        first = next(iter(mine.values()))
        told = [
            minutes(mine[n]["seconds"])
            if mine[n]["reached"] == mine[n]["seeds"]
            else f"{mine[n]['reached']} of {mine[n]['seeds']} seeds"
            for n in networks
        ]
        told += [minutes(mine[n]["whole"]) for n in networks]
        lines.append(
            f"| {way} | {first['updates']:,.0f} | {first['up']:,.0f} | {first['down']:,.0f} "
            f"| {100 * first['deep']:.1f} % | {first['staleness']:.1f} | {' | '.join(told)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.93)
    parser.add_argument("--quick", action="store_true", help="1 seed, 3 rounds, one network")
    parser.add_argument("--out", type=Path, default=None, help="keep the runs here")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    seeds = range(1, 2 if arguments.quick else arguments.seeds + 1)
    rounds = 3 if arguments.quick else arguments.rounds
    networks = NETWORKS[1:2] if arguments.quick else NETWORKS
    one, half = "rotated 10 % / dense", ASKED // 2
    uneven: dict[str, tuple[str, int, dict[str, Any]]] = {
        "rounds of 10": (one, rounds, UNEVEN),
        "rounds, first 10 of 13": (one, rounds, UNEVEN | {"over_selection": 0.3}),
        "FedBuff, K = 10": (one, rounds, UNEVEN | {"buffer": ASKED}),
        "FedBuff, K = 5": (one, 2 * rounds, UNEVEN | {"buffer": half}),
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="fedlite-network-") as folder:
        place = arguments.out or Path(folder)
        rows["links"] = []
        for name in LINKS:
            made = [configure(name, "4g", seed, rounds, {}) for seed in seeds]
            runs = [(scenario, played(scenario, place)) for scenario in made]
            for network in networks:
                rows["links"].append(
                    row(name, network, [timed(network, *run, arguments.target) for run in runs])
                )
            print(f"{name}: done", flush=True)
        rows["uneven"] = []
        for name, (links, steps, more) in uneven.items():
            for network in networks[1:] or networks:
                made = [configure(links, network, seed, steps, more) for seed in seeds]
                runs = [(scenario, played(scenario, place)) for scenario in made]
                found = [told(network, read_rounds(d), d, arguments.target) for _, d in runs]
                rows["uneven"].append(row(name, network, found))
            print(f"{name}: done", flush=True)
    print(f"\n{len(seeds)} seeds, {rounds} rounds, target {arguments.target:.0%}, {machine()}\n")
    for found in rows.values():
        print(render(found, list(dict.fromkeys(each["network"] for each in found))), end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
