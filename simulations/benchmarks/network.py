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
from pathlib import Path
from statistics import mean
from typing import Any

from fedlite.reporting.record import read_summary
from fedlite.reporting.virtual import minutes
from fedlite.scenario import Scenario, from_dict
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
    links: str, network: str, seed: int, rounds: int, target: float, more: Mapping[str, Any]
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
            "network": {"profile": network, "target": target, **more},
        }
    )


def played(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """Return the summary of a run, which is kept in `folder` under its settings."""
    name = hashlib.sha256(scenario.to_toml().encode()).hexdigest()[:16]
    if not (folder / name / "summary.json").exists():
        simulate(scenario, folder / name, engine="serial", quiet=True)
    return read_summary(folder / name)


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
    ways: dict[str, tuple[str, int, dict[str, Any]]] = {name: (name, rounds, {}) for name in LINKS}
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
        for title, table in (("links", ways), ("uneven", uneven)):
            rows[title] = []
            for name, (links, steps, more) in table.items():
                for network in networks:
                    found = [
                        played(
                            configure(links, network, seed, steps, arguments.target, more), place
                        )
                        for seed in seeds
                    ]
                    rows[title].append(row(name, network, found))
                print(f"{name}: done", flush=True)
    print(f"\n{len(seeds)} seeds, {rounds} rounds, target {arguments.target:.0%}, {machine()}\n")
    for table_rows in rows.values():
        print(render(table_rows, networks), end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
