"""What a site did with its records, for data protection: read from its folder alone.

From the ledgers, which are signed, comes what was charged and released; from the records of runs
(`clients.runtime.runbook`) for whom and on what terms, and what left without a ledger; from the
journal who allowed it. No record of a person is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fedlite
from clients.runtime import runbook, seats, setup
from clients.runtime.runbook import now
from clients.runtime.status import trust
from fedlite.deployment import journal
from fedlite.guard import policy as site_policy
from fedlite.guard.policy import SitePolicy
from fedlite.messages import COUNTS, HEAD_BYTES, REPLY_BYTES
from fedlite.privacy.budget import Account
from fedlite.privacy.budget.plans import Plan
from fedlite.privacy.counting import run_of
from fedlite.privacy.ledger import LedgerError, Row, read

# Acts of people, not those of the site's own process.
_ACTS = ("init", "join", "approve", "refuse", "revoke", "adopt", "rotate", "rotate-finish",
         "backup", "restore", "clean", "model")  # fmt: skip


def record(home: Path) -> dict[str, Any]:
    """Return everything as one object for JSON; times are UTC, sizes bytes.

    datasets: each with its ceiling, what was charged, and every change of the ceiling; where noise
    is shared also what is spent if all others collude, and that ceiling. runs: each with its
    coordinator, terms, `releases`, and `bytes`: of what left, by the definition of the
    coordinator's summary (`_left`). acts: the journal's lines of what people decided.
    Raises ValueError when the folder is no site's. A ledger that does not verify is named by
    `error`, and its runs are those of the runbook alone.
    """
    policy = site_policy.load(home / setup.POLICY)
    told = {run["run"]: run for run in runbook.read(home)}
    # What a run counts after its last round has a plan of its own, and a name that follows.
    counts = {
        run_of(bytes.fromhex(name)): run | {"scenario": f"{run['scenario']}, its counts"}
        for name, run in told.items()
        if re.fullmatch(r"[0-9a-f]{16}", name) and "scenario" in run
    }
    datasets, runs, seen = [], [], set[str]()
    names = {one.name for one in policy.data} | {p.stem for p in home.glob("ledgers/*.jsonl")}
    for name in sorted(names):
        described, account, rows = _dataset(home, policy, name)
        datasets.append(described)
        for number, plan in enumerate(account.plans if account else ()):
            seen.add(plan.run)
            what = told.get(plan.run) or counts.get(plan.run, {})
            before = account.plans[number - 1].charged if account and number else 0.0
            runs.append(
                {
                    **_terms(plan.run, name, what),
                    "since": _opened(rows, plan.run),
                    "unit": plan.unit,
                    "epsilon": plan.epsilon_asked,
                    "delta": plan.delta,
                    "steps": plan.steps,
                    "charged_before": before,
                    "charged_after": plan.charged,
                    "ceiling": described["ceiling"],
                    **_shared(plan),
                    **_left(list(_releases(rows, plan.run, what)), told.get(plan.run, {})),
                    "signed": True,
                }
            )
    runs += [_unsigned(what) for run, what in told.items() if run not in seen]
    return {
        "site": policy.site,
        "made": now(),
        "fedlite": fedlite.__version__,
        "coordinators": [_coordinator(seat) for seat in seats.every(home)],
        "datasets": datasets,
        "runs": sorted(runs, key=lambda run: (run["since"], run["run"])),
        "acts": [line for line in journal.read(home / "audit") if line["action"] in _ACTS],
        "kept_days": journal.KEEP_DAYS,
    }


def by_day(releases: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return for each day how many messages left, and their bytes together."""
    count, size = Counter[str](), Counter[str]()
    for one in releases:
        count[str(one["time"])[:10]] += 1
        size[str(one["time"])[:10]] += one["bytes"]
    return [(day, count[day], size[day]) for day in sorted(count)]


def _dataset(
    home: Path, policy: SitePolicy, name: str
) -> tuple[dict[str, Any], Account | None, list[Row]]:
    chosen, limits = policy.data_set(name), site_policy.for_data(policy, name)
    described: dict[str, Any] = {
        "name": name,
        "source": chosen.source if chosen else "",
        "part": chosen.part if chosen else "",
        "file": chosen.path if chosen else "",
        "ceiling": limits.epsilon,
        "delta": limits.delta,
        "units": list(limits.units),
        "charged": 0.0,
        "runs": 0,
        "changes": [],
    }
    path = home / "ledgers" / f"{name}.jsonl"
    if not path.exists():
        return described, None, []
    try:
        rows = read(path)
        account = Account.of(rows)
    except (LedgerError, OSError) as error:
        return described | {"error": str(error)}, None, []
    described |= {
        "ledger": account.id,
        "owner": account.owner,
        "rows": len(rows),
        "ceiling": account.policy.meet(limits).epsilon,
        "charged": account.plans[-1].charged if account.plans else 0.0,
        "runs": len(account.plans),
        **trust(account, account.policy.meet(limits)),
        "changes": [
            {
                "time": row.time,
                "epsilon": row.body["policy"]["epsilon"],
                "by": "the data's owner" if row.body.get("grant") else "the site",
            }
            for row in rows
            if "policy" in row.body
        ],
    }
    return described, account, rows


def _shared(plan: Plan) -> dict[str, Any]:
    """Return on whom a plan counts, and what all cost if these collude; nothing of local noise."""
    if not plan.shared:
        return {}
    told = {"members": sorted(plan.group), "honest": plan.honest, "alone_after": plan.alone}
    return told | ({"groups": plan.groups} if plan.groups > 1 else {})


def _terms(run: str, dataset: str, what: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run is; what is not known of it is ""."""
    names = ("scenario", "coordinator", "fingerprint", "bundle", "approved", "by")
    return {
        "run": run,
        "dataset": dataset,
        **{name: what.get(name, "") for name in names},
        "settings": what.get("settings", {}),
    }


def _unsigned(what: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run of which no ledger tells: one without privacy, or one that never trained."""
    settings = what["settings"]
    return {
        **_terms(what["run"], str(what.get("dataset", "")), what),
        "since": what.get("since", ""),
        "unit": settings.get("privacy.unit", "none"),
        **_left([_noted(one) for one in _sent(what) if not one.get("step")], what),
        "signed": False,
    }


def _opened(rows: Iterable[Row], run: str) -> str:
    """Return when a ledger took the run's plan."""
    plans = (row for row in rows if row.kind in ("genesis", "plan"))
    return next((row.time for row in plans if row.body["plan"]["run"] == run), "")


def _sent(what: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the notes of a run's answers that left, other than who the site is."""
    messages = what.get("messages", [])
    return [one for one in messages if one["outcome"] == "sent" and one["update"]]


def _noted(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return what left by a note alone; one from before blobs were noted has the whole message."""
    size = one.get("blob") or one["up"]
    told = {"time": one["time"], "round": one["round"], "bytes": size, "frame": size, "head": 0}
    return told | ({} if one.get("blob") else {"at_most": True})


def _releases(rows: Iterable[Row], run: str, what: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield each release of a ledger: its frame by the ledger, its head by the notes.

    A head has one of two lengths. Where no note says which, the longer one counts.
    """
    noted = {(one["round"], one.get("blob", 0)) for one in _sent(what) if not one.get("step")}
    reserved: dict[int, Row] = {}
    for row in rows:
        if row.kind == "reserve" and row.body["run"] == run:
            reserved[row.seq] = row
        elif row.kind == "release" and row.body["of"] in reserved:
            round, frame = str(reserved[row.body["of"]].body["round"]), row.body["bytes"]
            # Counts are charged as another run, and noted as the last message of their own.
            asked = round if what.get("run", run) == run else COUNTS
            heads = [n for n in (HEAD_BYTES, REPLY_BYTES) if (asked, frame + n) in noted]
            head = max(heads, default=REPLY_BYTES)
            told = {"time": row.time, "round": round, "bytes": frame + head}
            told |= {"frame": frame, "head": head}
            yield told | ({} if heads else {"at_most": True})


def _left(releases: list[dict[str, Any]], what: Mapping[str, Any]) -> dict[str, Any]:
    """Return the releases of a run and its `bytes`: all, frames, heads and steps of sums.

    at_most: of how many releases no note tells the length to the byte.
    """
    frames, heads = (sum(one[part] for one in releases) for part in ("frame", "head"))
    steps = sum(one["blob"] for one in _sent(what) if one.get("step"))
    return {
        "releases": releases,
        "bytes": {
            "all": frames + heads + steps,
            "frames": frames,
            "heads": heads,
            "sum_steps": steps,
            "at_most": sum(1 for one in releases if "at_most" in one),
        },
    }


def _coordinator(seat: Path) -> dict[str, str]:
    invitation = seats.joined(seat)
    return {
        "name": invitation.name,
        "address": invitation.address,
        "fingerprint": invitation.fingerprint,
    }
