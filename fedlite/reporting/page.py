"""The report page: one file that can be mailed, printed, and opened without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlite.reporting import markup, wording
from fedlite.reporting.figures import FIGURES, ROUNDS_PNG
from fedlite.reporting.page_baselines import baselines_section
from fedlite.reporting.page_privacy import privacy_section, what_left
from fedlite.reporting.record import RoundRecord, read_rounds, read_summary
from fedlite.storage import write_atomic

PAGE = "report.html"


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
    parts = [
        *_top(rounds, summary),
        _rounds_figure(rounds, summary, figures),
        *_sites(summary),
        *what_left(summary),
        *privacy_section(summary["privacy"], summary["sites"]),
        *_bytes(summary),
        *_updates(rounds, summary),
        *_model(summary),
        *baselines_section(summary, figures),
        *_making(summary),
    ]
    return markup.page(f"fedlite: {summary['scenario']}, seed {summary['seed']}", parts)


def _top(rounds: Sequence[RoundRecord], summary: Mapping[str, Any]) -> list[str]:
    sites = wording.count(len(summary["sites"]), "site")
    about = [
        summary.get("data", {}).get("name", ""),
        summary.get("model", {}).get("name", ""),
        sites,
        wording.count(summary["rounds"], "round"),
        f"one run, seed {summary['seed']}",
    ]
    sent, privacy = summary["bytes"], summary["privacy"]
    binary = bool(summary.get("auc"))
    quality = summary["auc"] if binary else summary["accuracy"]
    best = wording.score(quality.get("deep")) if binary else wording.share(quality.get("deep"))
    if wording.unmeasured(summary):
        best = "not measured"
    loss = wording.epsilon(wording.worst(privacy)) if wording.claimed(privacy) else "not claimed"
    over = wording.claimed(privacy) and wording.overspent(privacy)
    parts = [
        f"<h1>{markup.text(summary['scenario'])}</h1>",
        markup.paragraph(" · ".join(str(item) for item in about if item), "soft"),
        markup.paragraph(" ".join(wording.verdict(summary)), "verdict warn" if over else "verdict"),
        markup.cards(
            [
                ("AUC, deep" if binary else "accuracy, deep", best),
                ("sent by a site", wording.megabytes(sent["up"] / max(1, len(summary["sites"])))),
                ("against dense float32", wording.times(sent["up_ratio"])),
                ("privacy loss, epsilon", loss),
            ]
        ),
    ]
    if len(rounds) != summary["rounds"]:
        parts.append(
            markup.paragraph(
                f"rounds.jsonl holds {wording.count(len(rounds), 'round')}, the summary speaks of "
                f"{summary['rounds']:,}: the figure shows only what the file holds.",
                "warn",
            )
        )
    return parts


def _rounds_figure(rounds: Sequence[RoundRecord], summary: Mapping[str, Any], figures: Path) -> str:
    what = "AUC" if summary.get("auc") else "accuracy"
    private = any(record.epsilon is not None for record in rounds)
    shown = "bytes sent" if wording.unmeasured(summary) else f"{what}, bytes sent"
    shown += " and privacy loss" if private else ""
    caption = f"{shown.capitalize() if what != 'AUC' else shown} over the rounds of this one run."
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


def _sites(summary: Mapping[str, Any]) -> list[str]:
    quality, ranks = summary["accuracy"], summary.get("auc", {})
    rows_of, ranks_of = quality.get("by_site") or {}, ranks.get("by_site") or {}
    home = _home(summary)
    if summary.get("data", {}).get("at_sites"):
        names = ", ".join(map(str, summary["sites"]))
        text = f"{wording.unmeasured(summary).capitalize()}. Took part: {names}."
        return [markup.heading("Site by site"), markup.paragraph(text)]
    head = ["site", "records", "accuracy, shallow", "accuracy, deep"]
    head += ["AUC, shallow", "AUC, deep"] if ranks else []
    head += [f"{name}, home head" for name, _, _ in home]
    rows = []
    for site in summary["sites"]:
        row = [site, markup.integer(wording.branch(rows_of, site, "records"))]
        row += [wording.share(wording.branch(rows_of, site, b)) for b in ("shallow", "deep")]
        if ranks:
            row += [wording.score(wording.branch(ranks_of, site, b)) for b in ("shallow", "deep")]
        row += [say(values.get(site)) for _, values, say in home]
        rows.append(row)
    total = ["all", "", wording.share(quality.get("shallow")), wording.share(quality.get("deep"))]
    if ranks:
        total += [wording.score(ranks.get("shallow")), wording.score(ranks.get("deep"))]
    total += ["" for _ in home]
    notes = [f"“All” is measured on the {quality.get('on', 'held-out data')}."]
    sizes = [wording.branch(rows_of, site, "records") for site in summary["sites"]]
    known = [size for size in sizes if isinstance(size, int) and size > 0]
    if known:
        notes.append(
            f"The smallest site holds out {wording.count(min(known), 'record')}: one more that is "
            f"right moves its accuracy by {100 / min(known):.1f} points."
        )
    if home:
        notes.append("A home head is fitted at the site after training and is never sent.")
    return [
        markup.heading("Site by site"),
        markup.table(head, rows, total=total, caption="Held-out records, never training data"),
        markup.paragraph(" ".join(notes), "soft"),
    ]


def _home(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Any]]:
    found = []
    for metric, values in (summary.get("home_head") or {}).items():
        if isinstance(values, Mapping):
            by_site = values.get("by_site", values)
            say = wording.share if metric == "accuracy" else wording.score
            found.append((wording.METRICS.get(metric, str(metric)), by_site, say))
    return found


def _bytes(summary: Mapping[str, Any]) -> list[str]:
    sent = summary["bytes"]
    rows = []
    for way, words in (("up", "sites to server"), ("down", "server to sites")):
        row = [words, wording.megabytes(sent[way]), wording.megabytes(sent[f"dense_{way}"])]
        row.append(wording.times(sent[f"{way}_ratio"]))
        if f"wire_{way}" in sent:
            row.append(wording.megabytes(sent[f"wire_{way}"]))
        rows.append(row)
    head = ["", "sent", "dense float32", "saved"]
    head += ["whole messages"] if "wire_up" in sent and "wire_down" in sent else []
    rows = [row[: len(head)] for row in rows]
    caption = f"All sites and rounds; {wording.count(summary['parameters'], 'parameter')}"
    parts = [markup.heading("Bytes"), markup.table(head, rows, caption=caption)]
    parts.append(
        markup.paragraph(
            "Sent counts whole payloads with their headers; dense is the same updates as plain "
            "float32 vectors. MB is 1,000,000 bytes.",
            "soft",
        )
    )
    return parts


def _updates(rounds: Sequence[RoundRecord], summary: Mapping[str, Any]) -> list[str]:
    updates = summary.get("updates")
    if not updates:
        return []
    parts = [
        markup.heading("Updates"),
        markup.facts(
            [
                ("accepted", markup.integer(updates.get("accepted"))),
                ("dropped", markup.integer(updates.get("dropped"))),
                ("missing at the deadline", markup.integer(updates.get("missing"))),
            ]
        ),
    ]
    reasons: Counter[tuple[str, str]] = Counter()
    for record in rounds:
        reasons.update(record.dropped.items())
        reasons.update((site, "missing") for site in record.missing)
    if reasons:
        rows = [[site, code, f"{n:,}"] for (site, code), n in sorted(reasons.items())]
        parts.append(markup.table(["site", "why", "rounds"], rows))
    return parts


def _model(summary: Mapping[str, Any]) -> list[str]:
    costs = summary.get("model", {}).get("costs", {})
    if not costs:
        return []
    keys = ("parameters", "macs")
    branches = wording.in_order(costs, ("stem", "exit", "tail"))
    rows = [[name, *(markup.integer(costs[name].get(key)) for key in keys)] for name in branches]
    sums = (sum(cost.get(key) or 0 for cost in costs.values()) for key in keys)
    total = ["all", *map(markup.integer, sums)]
    head = ["branch", "parameters", "multiply-adds for one input"]
    return [
        markup.heading("Model"),
        markup.table(head, rows, total=total),
        markup.paragraph(
            "A shallow answer costs stem and exit; a deep one costs the tail as well.", "soft"
        ),
    ]


def _making(summary: Mapping[str, Any]) -> list[str]:
    seconds, energy, data = summary["seconds"], summary.get("energy", {}), summary.get("data", {})
    value = energy.get("value")
    power = ""
    if value is not None:
        power = f"{value:,.3g} {energy.get('unit', 'J')}, {energy.get('method', 'modelled')}"
        if energy.get("watts_per_core"):
            power += f" ({energy['watts_per_core']:g} W for each busy core)"
    median, cpu = seconds.get("round_median"), summary.get("cpu_seconds")
    versions = ", ".join(f"{name} {v}" for name, v in sorted(summary.get("versions", {}).items()))
    return [
        markup.heading("How it was made"),
        markup.facts(
            [
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
        ),
        markup.paragraph(
            "Drawn from rounds.jsonl and summary.json of this run, which hold every figure; "
            "scenario.toml beside them makes the run again.",
            "soft",
        ),
    ]
