"""A small federation's files, made by the ledger's own writer and by plain signing.

The server's side is signed here by hand, from the format alone, so that the audit is held against
the format and not against the server's code.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.privacy.accounting import compose_pld, compose_rdp
from fedlite.privacy.admission import order_for
from fedlite.privacy.ledger import Ledger
from fedlite.privacy.ledger.rows import NO_HASH, Head, Row, row_hash, row_message, witness_message
from fedlite.privacy.mechanism import Event

DELTA = 1e-5
DATASET = "digits"
SIGMA = 8.0
RUN = "00000000000000aa"


def policy_body(epsilon: float = 3.0, **more: Any) -> dict[str, Any]:
    return {
        "epsilon": epsilon,
        "delta": DELTA,
        "person": 0.0,
        "per_run": 0.0,
        "units": ["record"],
        "metrics": [],
        "servers": [],
    } | more


def plan_body(run: str = RUN, steps: int = 6, **more: Any) -> dict[str, Any]:
    body = {
        "run": run,
        "unit": "record",
        "noise_multiplier": SIGMA,
        "sampling_rate": 1.0,
        "steps": steps,
        "asked": steps,
        "clip": 0.1,
        "expected_batch": 32,
        "max_batch": 0,
        "max_records": 0,
        "delta": DELTA,
        "epsilon_asked": 3.0,
        "bound": "pld",
        "charged": compose_pld([(Event(more.get("noise_multiplier", SIGMA)), steps)], DELTA),
        "code": "c0de" * 16,
    }
    return body | more


class Site:
    """One site with its home, its key and its ledger."""

    def __init__(self, root: Path, name: str) -> None:
        self.name, self.home = name, root / name
        self.home.mkdir(parents=True)
        (self.home / "site.toml").write_text(f'site = "{name}"\n')
        self.key = keys.generate(self.home / "keys" / "ledger.pem")
        self.path = self.home / "ledgers" / f"{DATASET}.jsonl"
        self.path.parent.mkdir()
        self.receipt: dict[str, Any] | None = None

    def genesis(self, plan: dict[str, Any], policy: dict[str, Any], **more: Any) -> None:
        with Ledger.open(self.path, self.key) as ledger:
            ledger.create(
                {
                    "version": 1,
                    "site": self.name,
                    "dataset": self.path.name.removesuffix(".jsonl"),
                    "key": keys.public_hex(self.key),
                    "owner": "",
                    "commitment": hashlib.sha256(self.name.encode()).hexdigest(),
                    "code": "c0de" * 16,
                    "order": order_for(policy["epsilon"], DELTA),
                    "policy": policy,
                    "plan": plan,
                }
                | more
            )

    def append(self, *entries: tuple[str, dict[str, Any]]) -> Head:
        with Ledger.open(self.path, self.key) as ledger:
            ledger.append(*entries)
            return ledger.head

    def take_part(self, number: int, *, run: str = RUN, plan: int = 0) -> tuple[Head, str]:
        """Run one round, and return the head and the payload's hash that go to the server."""
        payload = hashlib.sha256(f"{self.name} {run} {number}".encode()).hexdigest()
        with Ledger.open(self.path, self.key) as ledger:
            rows: list[tuple[str, dict[str, Any]]] = []
            if self.receipt is not None:
                rows.append(("witness", self.receipt))
            body = {"plan": plan, "run": run, "round": number, "steps": 1, "model": "ab" * 8}
            ledger.append(*rows, ("reserve", body))
            of = ledger.head.seq
            ledger.append(
                ("settle", {"of": of, "steps": 1, "payload": payload}),
                ("release", {"of": of, "payload": payload, "bytes": 512}),
            )
            return ledger.head, payload


# What a closing line names.
FILES = ("model.json", "model.safetensors", "rounds.jsonl", "scenario.toml", "summary.json")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server:
    """A witness that signs what it sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = keys.generate(path.with_name(f"{path.stem}.pem"))
        self.public = keys.public_hex(self.key)

    def line(self, kind: str, site: Site, head: Head, **more: Any) -> dict[str, Any]:
        seen = kind == "seen"
        message = witness_message(head.ledger, head.seq, head.hash)
        return {
            "kind": kind,
            "site": site.name,
            "ledger": head.ledger,
            "key": keys.public_hex(site.key),
            "seq": head.seq,
            "hash": head.hash,
            "signature": head.signature,
            "payload": "",
            "run": RUN,
            "round": 0,
            "time": "2026-11-22T09:30:00Z",
            "why": "",
            "witness": self.public,
            "countersignature": keys.sign(self.key, message) if seen else "",
        } | more

    def prove(self, row: Mapping[str, Any]) -> str:
        return keys.sign(self.key, b"fedlite-witness-line-v2\n" + canonical(dict(row)))

    def head(self) -> str:
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return sha256(lines[-1]) if lines else NO_HASH

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Add lines, chained and signed."""
        for row in rows:
            said = dict(row) | {"prev": self.head()}
            self.write_as_it_is(said | {"proof": self.prove(said)})

    def write_as_it_is(self, row: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(canonical(dict(row)) + b"\n")

    def see(self, site: Site, head: Head, **more: Any) -> None:
        row = self.line("seen", site, head, **more)
        self.write(row)
        site.receipt = {
            "seq": head.seq,
            "hash": head.hash,
            "witness": self.public,
            "signature": row["countersignature"],
        }


class World:
    """A run directory and the homes of its sites, below `root`."""

    def __init__(
        self, root: Path, sites: int = 3, rounds: int = 6, planned: int = 0, *, listed: bool = False
    ) -> None:
        """Play `rounds` rounds of a plan of `planned` steps; 0: the rounds are all of it.

        listed: the sites' policies list the server, as those of a deployment do.
        """
        self.root, self.run, self.rounds = root, root / "run", rounds
        self.planned = planned or rounds
        (self.run / "ledgers").mkdir(parents=True)
        (self.run / "scenario.toml").write_text(
            '[privacy]\nunit = "record"\nsimulate_seed = -1\n[training]\nsteps = 1\n'
        )
        (self.run / "model.json").write_text("{}")
        (self.run / "model.safetensors").write_bytes(b"model")
        self.server = Server(self.run / "witness.jsonl")
        (self.run / "witness.pem").rename(root / "witness.pem")
        self.sites = [Site(root / "sites", f"site-{n + 1}") for n in range(sites)]
        policy = policy_body(servers=[self.server.public] if listed else [])
        for site in self.sites:
            site.genesis(plan_body(steps=self.planned), policy)
        for number in range(1, rounds + 1):
            for site in self.sites:
                self.play(site, number)
            self.record(number)
        self.collect()
        self.summarize()
        self.close()

    def move(self, root: Path) -> World:
        """Return a copy of everything below another root, to be spoilt there."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        other = copy.copy(self)
        other.root, other.run = root, root / "run"
        other.server = copy.copy(self.server)
        other.server.path = other.run / "witness.jsonl"
        other.sites = []
        for site in self.sites:
            moved = copy.copy(site)
            moved.home = root / "sites" / site.name
            moved.path = moved.home / "ledgers" / site.path.name
            other.sites.append(moved)
        return other

    def play(self, site: Site, number: int, **more: Any) -> None:
        head, payload = site.take_part(number, **more)
        self.server.see(site, head, payload=payload, round=number, run=more.get("run", RUN))

    def record(self, number: int, **dropped: str) -> None:
        row = {
            "round": number,
            "accepted": len(self.sites),
            "dropped": {k.replace("_", "-"): v for k, v in dropped.items()},
        }
        with (self.run / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")

    def collect(self) -> None:
        for site in self.sites:
            shutil.copy(site.path, self.copy_of(site))

    def copy_of(self, site: Site) -> Path:
        return self.run / "ledgers" / f"{site.name}.jsonl"

    def summarize(self, **changes: Any) -> dict[str, Any]:
        """Write the summary of an honest server, with `changes` to its privacy part."""
        sites = {}
        for site in self.sites:
            parts = [(Event(SIGMA), self.planned)]
            pld = compose_pld(parts, DELTA)
            sites[site.name] = {
                "epsilon": {"pld": pld, "prv": pld + 0.0102, "rdp": compose_rdp(parts, DELTA)},
                "prv_error": 0.01,
                "budget": 3.0,
                "releases": self.rounds,
            }
        privacy = {
            "unit": "record",
            "noise_at": "site",
            "claimed": True,
            "delta": DELTA,
            "clip": 0.1,
            "noise_multiplier": SIGMA,
            "sampling_rate": 1.0,
            "steps": self.planned,
            "expected_batch": 32,
            "sites": sites,
        } | changes
        summary = {
            "scenario": "small",
            "run": RUN,
            "rounds": self.rounds,
            "sites": sorted(privacy.get("sites", sites)),
            "privacy": privacy,
        }
        (self.run / "summary.json").write_text(json.dumps(summary, indent=2, sort_keys=True))
        return summary

    def close(self, **changes: Any) -> None:
        """Sign, as an honest server does at the end, what lies in the run directory."""
        row = {
            "kind": "closed",
            "run": RUN,
            "lines": self.server.head(),
            "files": {name: sha256((self.run / name).read_bytes()) for name in FILES},
            "sites": self.heads(),
            "time": "2026-11-22T10:30:00Z",
            "witness": self.server.public,
        }
        self.server.write(row | changes)

    def heads(self) -> dict[str, Any]:
        """Return what a closing line says of each site."""
        lines = [row for row in self.witness_lines() if row["kind"] == "seen"]
        return {row["site"]: {k: row[k] for k in ("ledger", "seq", "hash")} for row in lines}

    def witness_lines(self) -> list[dict[str, Any]]:
        """Return what the lines about heads say, without chain and proof."""
        if not self.server.path.exists():
            return []
        lines = [json.loads(line) for line in self.server.path.read_text().splitlines()]
        chain = ("prev", "proof")
        return [
            {k: v for k, v in line.items() if k not in chain}
            for line in lines
            if line["kind"] != "closed"
        ]

    def write_witness(self, lines: list[dict[str, Any]], *, close: bool = True) -> None:
        """Write the file anew, as only the server itself can."""
        self.server.path.unlink(missing_ok=True)
        self.server.write(*lines)
        if close:
            self.close()


def forge(
    rows: list[Row], key: keys.Key, change: Callable[[int, str, dict[str, Any]], Any]
) -> bytes:
    """Return a ledger rebuilt row by row with the site's own key, bodies changed on the way.

    change(seq, kind, body) returns the body to write.
    """

    prev, lines = NO_HASH, []
    for row in rows:
        body = change(row.seq, row.kind, json.loads(json.dumps(row.body)))
        hash = row_hash(row.seq, prev, row.kind, row.time, body)
        signature = keys.sign(key, row_message(hash))
        lines.append(Row(row.seq, prev, row.kind, row.time, body, hash, signature).line)
        prev = hash
    return b"".join(lines)
