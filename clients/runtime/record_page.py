"""The record of a site as one page that can be mailed, printed, and opened without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clients.runtime.record import by_day
from fedlite.reporting import markup, wording
from fedlite.storage import write_atomic

TITLE = "Record of processing"
# What of the settings says what a run is for; the others are in its bundle.
_PURPOSE = {
    "model.name": "model",
    "data.labels": "tells apart",
    "data.columns": "from the columns",
    "data.target": "label column",
    "federation.sites": "sites",
    "federation.rounds": "rounds",
}
_FIXED = ("action", "time", "who")


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write the page atomically, for its owner alone; another kind of file is never replaced.

    found: what `clients.runtime.record.record` returns. Raises ValueError, OSError.
    """
    if path.exists():
        with path.open("rb") as file:
            if f"<title>{TITLE}".encode() not in file.read(4096):
                raise ValueError(
                    f"{path}: is no record of a site, and is never overwritten; name another file"
                )
    write_atomic(path, build(found).encode(), 0o600)


def build(found: Mapping[str, Any]) -> str:
    """Return the page's HTML; every text from a file is escaped."""
    runs, datasets = found["runs"], found["datasets"]
    releases = [one for run in runs for one in run["releases"]]
    unsigned = sum(1 for run in runs if not run["signed"] and run["releases"])
    return markup.render(
        "site_record.html.j2",
        title=f"{TITLE}: {found['site']}",
        verdict=_verdict(found, unsigned),
        first=[
            ("coordinators", f"{len(found['coordinators']):,}"),
            ("runs", f"{len(runs):,}"),
            ("updates that left", f"{len(releases):,}"),
            ("bytes that left", _bytes([run["bytes"] for run in runs])),
        ],
        coordinators=markup.Table(
            ("coordinator", "address", "fingerprint"),
            [tuple(one.values()) for one in found["coordinators"]],
        ),
        datasets=markup.Table(
            ("data set", "source", "protects", "runs", "epsilon charged", "ceiling", "at delta"),
            [
                (
                    one["name"],
                    " ".join(filter(None, (one["source"], one["part"], one["file"]))),
                    ", ".join(one["units"]),
                    f"{one['runs']:,}",
                    "not known" if "error" in one else _charged(one),
                    f"{one['ceiling']:g}"
                    + (f"; {one['collusion']:g} if so" if "collusion" in one else ""),
                    f"{one['delta']:g}",
                )
                for one in datasets
            ],
        ),
        problems=[(one["name"], one["error"]) for one in datasets if "error" in one],
        changes=markup.Table(
            ("data set", "since", "ceiling", "set by"),
            [
                (one["name"], change["time"], f"{change['epsilon']:g}", change["by"])
                for one in datasets
                for change in one["changes"]
            ],
            caption="The ceilings as the ledgers keep them: raised only by the data owner",
        ),
        runs=[
            {
                "title": f"{run['scenario'] or 'a run'}, {run['since'][:10]}",
                "facts": list(_facts(run)),
                "days": markup.Table(
                    ("day", "updates that left", "their bytes"),
                    [(day, f"{n:,}", f"{size:,}") for day, n, size in by_day(run["releases"])],
                ),
            }
            for run in runs
        ],
        acts=markup.Table(
            ("when", "what", "who", "facts"),
            [
                (
                    str(line.get("time", "")),
                    line["action"],
                    str(line.get("who", "")),
                    ", ".join(f"{k} {v}" for k, v in line.items() if k not in _FIXED),
                )
                for line in found["acts"]
            ],
        ),
        kept_days=found["kept_days"],
        made=found["made"],
        version=found["fedlite"],
    )


def _bytes(found: Sequence[Mapping[str, int]]) -> str:
    most = "at most " if any(one["at_most"] for one in found) else ""
    return f"{most}{sum(one['all'] for one in found):,}"


def _charged(one: Mapping[str, Any]) -> str:
    """Return what a data set was charged, and what it comes to if all who share noise collude."""
    told = wording.epsilon(one["charged"], 3)
    if "alone" not in one:
        return told
    return f"{told}; {wording.epsilon(one['alone'], 3)} if all others collude with the server"


def _verdict(found: Mapping[str, Any], unsigned: int) -> str:
    worst = [one for one in found["datasets"] if one["runs"]]
    told = [
        f"{one['name']}: epsilon {wording.epsilon(one['charged'], 3)} of {one['ceiling']:g}"
        for one in worst
    ]
    runs = len(found["runs"])
    sent = sum(1 for run in found["runs"] if run["releases"])
    text = f"{found['site']} answered {wording.count(sent, 'run')}"
    text += f", and sent nothing in {runs - sent} more." if sent < runs else "."
    if told:
        text += f" Charged so far: {'; '.join(told)}."
    if unsigned:
        text += f" {wording.count(unsigned, 'run')} sent updates without the protection of noise."
    return text


def _facts(run: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    settings = run["settings"]
    yield "run", run["run"]
    yield "asked by", run["coordinator"] or "not known: it is older than these notes"
    purpose = [f"{told} {settings[key]}" for key, told in _PURPOSE.items() if settings.get(key)]
    yield "purpose", "; ".join([run["scenario"], *purpose]) if settings else ""
    yield "data set", run["dataset"]
    if run["signed"]:
        unit = wording.unit({"unit": run["unit"].partition("-")[0]})
        yield "protects", f"{unit} ({run['unit']}), over {wording.count(run['steps'], 'step')}"
        yield (
            "epsilon",
            f"{run['epsilon']:g} promised for this run at delta {run['delta']:g}; all runs on this "
            f"data set: {wording.epsilon(run['charged_before'], 3)} before it, "
            f"{wording.epsilon(run['charged_after'], 3)} with it, ceiling {run['ceiling']:g}",
        )
        if "members" in run:
            groups = f", in {run['groups']} groups" if "groups" in run else ""
            yield (
                "rests on",
                f"at least {run['honest']} of {len(run['members'])} being honest{groups} "
                f"({', '.join(run['members'])}); if all others collude all runs come to epsilon "
                f"{wording.epsilon(run['alone_after'], 3)}",
            )
    else:
        yield (
            "protects",
            "not in a ledger: "
            + ("no noise was asked for" if run["unit"] == "none" else "it never trained here"),
        )
    yield "code", run["bundle"]
    yield "approved", " by ".join(filter(None, (run["approved"], run["by"])))
    if run["releases"]:
        first, last = run["releases"][0]["time"], run["releases"][-1]["time"]
        yield "left", f"{first} to {last}"
        parts = {"frames": "frames", "heads": "ledger heads", "sum_steps": "steps of sums"}
        size = run["bytes"]
        told = [f"{name} {size[key]:,}" for key, name in parts.items() if size[key]]
        yield "bytes in all", f"{_bytes([size])}: {', '.join(told)}"
