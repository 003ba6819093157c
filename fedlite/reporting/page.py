"""The report page: one file that can be mailed, printed, and opened without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlite.reporting import energy as joules, kinds, markup, measures, virtual, wording
from fedlite.reporting.figures import ATTENDANCE_PNG, FIGURES, ROUNDS_PNG
from fedlite.reporting.many import MANY
from fedlite.reporting.page_baselines import baselines_section
from fedlite.reporting.page_privacy import privacy_section, what_left
from fedlite.reporting.page_read import read_section
from fedlite.reporting.page_routes import routes_section
from fedlite.reporting.page_sites import sites_section
from fedlite.reporting.record import RoundRecord, read_rounds, read_summary
from fedlite.storage import write_atomic

PAGE = "report.html"
Facts = list[tuple[str, object]]


def write_page(directory: Path) -> Path:
    """Write `report.html` from the directory's record and the figures already drawn there.

    Raises ValueError when the directory has no summary.
    """
    html = build(read_rounds(directory), read_summary(directory), directory / FIGURES)
    path = directory / PAGE
    write_atomic(path, html.encode())
    return path


def build(rounds: Sequence[RoundRecord], summary: Mapping[str, Any], figures: Path) -> str:
    """Return the page's HTML; every text of the record is escaped."""
    privacy = summary["privacy"]
    planned, held = summary["rounds"], wording.count(len(rounds), "round")
    return markup.render(
        "report.html.j2",
        scenario=summary["scenario"],
        seed=summary["seed"],
        about=_about(summary),
        verdict=" ".join([*wording.verdict(summary), *kinds.told(summary), *virtual.told(summary)]),
        spoilt=wording.spoilt(summary),
        overspent=wording.claimed(privacy) and wording.overspent(privacy),
        first=_first(summary),
        cut="" if len(rounds) == planned else f"{held}, the summary speaks of {planned:,}",
        rounds=_rounds_figure(rounds, summary, figures),
        sites=sites_section(summary, figures),
        left=what_left(summary),
        privacy=privacy_section(privacy, summary["sites"]),
        bytes=_bytes(summary),
        updates=_updates(rounds, summary, figures),
        model=_model(summary),
        routes=routes_section(summary, figures),
        baselines=baselines_section(summary, figures),
        read=read_section(summary.get("data", {}).get("read")),
        settings=[(key, _setting(value)) for key, value in summary.get("settings", {}).items()],
        making=_making(summary),
    )


def _about(summary: Mapping[str, Any]) -> str:
    about = [
        summary.get("data", {}).get("name", ""),
        summary.get("model", {}).get("name", ""),
        wording.count(len(summary["sites"]), "site"),
        wording.count(summary["rounds"], "round"),
        f"one run, seed {summary['seed']}",
    ]
    return " · ".join(str(item) for item in about if item)


def _first(summary: Mapping[str, Any]) -> Facts:
    """Return the few figures to see first."""
    sent, privacy = summary["bytes"], summary["privacy"]
    first, quality = measures.part_of(summary)
    best = first.say(quality.get("deep"))
    if wording.unmeasured(summary):
        best = "not measured"
    loss = wording.epsilon(wording.worst(privacy)) if wording.claimed(privacy) else "not claimed"
    used = wording.used_of_some(summary)
    return [
        (f"{first.name}, deep" if "shallow" in quality else first.name, best),
        (
            "sent for each update" if used else "sent by a site",
            wording.megabytes(sent["up"] / max(1, used or len(summary["sites"]))),
        ),
        ("against dense float32", wording.times(sent["up_ratio"])),
        ("privacy loss, epsilon", loss),
    ]


def _rounds_figure(
    rounds: Sequence[RoundRecord], summary: Mapping[str, Any], figures: Path
) -> markup.Figure:
    what = measures.part_of(summary)[0].name
    private = any(record.epsilon is not None for record in rounds)
    parts = [] if wording.unmeasured(summary) else [what]
    parts += ["bytes sent", "privacy loss"] if private else ["bytes sent"]
    shown = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[:-1] else parts)
    caption = f"{shown[:1].upper()}{shown[1:]} over the rounds of this one run."
    if private:
        caption += (
            " The dotted privacy loss is no bound: it is what the steps so far would cost, had "
            "their number been fixed beforehand."
        )
    return markup.figure(
        figures / ROUNDS_PNG,
        f"{shown} over {wording.count(len(rounds), 'round')}; the figures are in the tables below",
        caption,
    )


def _bytes(summary: Mapping[str, Any]) -> markup.Table:
    sent = summary["bytes"]
    rows = []
    for way, words in (("up", "sites to server"), ("down", "server to sites")):
        row = [words, wording.megabytes(sent[way]), wording.megabytes(sent[f"dense_{way}"])]
        row.append(wording.times(sent[f"{way}_ratio"]))
        if f"wire_{way}" in sent:
            row.append(wording.megabytes(sent[f"wire_{way}"]))
        rows.append(row)
    head = ["", "sent", "dense float32", "against it"]
    head += ["whole messages"] if "wire_up" in sent and "wire_down" in sent else []
    rows = [row[: len(head)] for row in rows]
    caption = f"All sites and rounds; {wording.count(summary['parameters'], 'parameter')}"
    return markup.Table(head, rows, caption=caption)


def _updates(
    rounds: Sequence[RoundRecord], summary: Mapping[str, Any], figures: Path
) -> Mapping[str, object] | None:
    updates = summary.get("updates")
    if not updates:
        return None
    facts: Facts = [
        ("accepted", markup.integer(updates.get("accepted"))),
        ("dropped", markup.integer(updates.get("dropped"))),
        ("missing at the deadline", markup.integer(updates.get("missing"))),
    ]
    if updates.get("cut"):
        facts.append(("cut, as longer than any honest one", markup.integer(updates["cut"])))
    drawn = markup.figure(
        figures / ATTENDANCE_PNG,
        "who was used in which round, and who was not, and why",
        "Every site in every round; white: not there yet. Who failed how often is in the table.",
    )
    return {"facts": facts, "figure": drawn, "reasons": _reasons(rounds)}


def _reasons(rounds: Sequence[RoundRecord]) -> markup.Table | None:
    reasons: Counter[tuple[str, str]] = Counter()
    for record in rounds:
        reasons.update(record.dropped.items())
        reasons.update((site, "missing") for site in record.missing)
        reasons.update((site, "cut") for site in record.cut)
        rested = (site for site, why in record.out.items() if why == "resting")
        reasons.update((site, "at rest") for site in rested)
    if not reasons:
        return None
    if len(reasons) <= MANY:
        rows = [[site, code, f"{n:,}"] for (site, code), n in sorted(reasons.items())]
        return markup.Table(["site", "why", "rounds"], rows)
    sites = Counter(code for _, code in reasons)
    times = {code: sum(n for (_, why), n in reasons.items() if why == code) for code in sites}
    rows = [[code, f"{n:,}", f"{times[code]:,}"] for code, n in sorted(sites.items())]
    return markup.Table(["why", "sites", "updates"], rows)


def _model(summary: Mapping[str, Any]) -> markup.Table | None:
    costs = summary.get("model", {}).get("costs", {})
    if not costs:
        return None
    keys = ("parameters", "macs")
    branches = wording.in_order(costs, ("stem", "exit", "tail", "network"))
    rows = [[name, *(markup.integer(costs[name].get(key)) for key in keys)] for name in branches]
    sums = (sum(cost.get(key) or 0 for cost in costs.values()) for key in keys)
    total = ["all", *map(markup.integer, sums)]
    return markup.Table(["branch", "parameters", "multiply-adds for one input"], rows, total)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _making(summary: Mapping[str, Any]) -> Facts:
    seconds, energy, data = summary["seconds"], summary.get("energy", {}), summary.get("data", {})
    power = joules.told(energy) if energy.get("value") is not None else ""
    median, cpu = seconds.get("round_median"), summary.get("cpu_seconds")
    versions = ", ".join(f"{name} {v}" for name, v in sorted(summary.get("versions", {}).items()))
    return [
        ("run", summary.get("run")),
        ("seed", summary["seed"]),
        ("data", " · ".join(str(data[k]) for k in ("name", "origin") if data.get(k))),
        ("model", summary.get("model", {}).get("name")),
        ("engine", summary.get("engine")),
        ("machine", summary.get("machine")),
        ("time", f"{seconds['total']:,.1f} s"),
        ("a round, median", None if median is None else f"{median:,.2f} s"),
        ("processor time", None if cpu is None else f"{cpu:,.1f} s"),
        ("energy", power),
        ("versions", versions),
    ]
