"""The report's sections on what left a site and how well that is protected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedlite.reporting import markup, wording
from fedlite.reporting.many import MANY, numbers, span

_SIMULATED = {"serial", "pool", "ray"}
_LISTED = 8  # counts of honest sites that are told one by one
_PARTS = (0.75, 0.5, 0.25)
# Said in full: "records" alone would read as if the records themselves had left.
_DISCLOSED = {
    "records": "how many records it trained on",
    "loss": "its loss",
    "accuracy": "its accuracy",
}
_TRUSTED = {
    "site": "each site's own code and random numbers",
    "server": "the server: its clipping, its noise and what it forgets",
    "shared": "enough of the sites: that they are honest and keep their noise to themselves",
}


def what_left(summary: Mapping[str, Any]) -> dict[str, object]:
    """Return what the template says of everything that a site sent."""
    disclosed = summary.get("disclosed", [])
    return {
        "disclosed": ", ".join(_DISCLOSED.get(item, str(item)) for item in disclosed),
        "extras": ", ".join(map(wording.plain, summary.get("extras", []))),
        "claimed": wording.claimed(summary["privacy"]),
        "compressed": summary.get("settings", {}).get("uplink.compressor") != "dense",
        "simulated": summary.get("engine") in _SIMULATED,
    }


def privacy_section(
    privacy: Mapping[str, Any], sites: Sequence[str]
) -> Mapping[str, object] | None:
    """Return what the template shows of the mechanism and of every site's loss; `sites` orders it.

    None where no privacy is meant.
    """
    if privacy.get("unit", "none") == "none":
        return None
    errors = [r["prv_error"] for r in privacy["sites"].values() if r.get("prv_error") is not None]
    return {
        "claimed": wording.claimed(privacy),
        "mechanism": _mechanism(privacy),
        "table": _losses(privacy, sites),
        "error": f"{max(errors):g}" if errors else "",
        "prefix": wording.prefix(privacy),
    }


def _losses(privacy: Mapping[str, Any], order: Sequence[str]) -> markup.Table:
    names = wording.in_order(privacy["sites"], order)
    found = [(name, _loss(privacy["sites"][name])) for name in names]
    releases = {name: privacy["sites"][name].get("releases") for name in names}
    if len(names) <= MANY:
        rows = [[name, *loss, markup.integer(releases[name])] for name, loss in found]
    else:
        # Most of many sites have the same plan, and so the same figures.
        rows = []
        for loss in dict.fromkeys(loss for _, loss in found):
            alike = [name for name, own in found if own == loss]
            sent = [int(n) for n in numbers(releases[name] for name in alike)]
            told = span(sent) if sent else wording.ABSENT
            rows.append([wording.count(len(alike), "site"), *loss, told])
    head = ["site", "PLD", "budget", "PRV", "RDP", "releases"]
    return markup.Table(head, rows, caption="Epsilon of each site; smaller protects more")


def _loss(row: Mapping[str, Any]) -> tuple[str, ...]:
    losses = row.get("epsilon", {})
    return (
        wording.epsilon(losses.get("pld"), 3),
        wording.budget(row.get("budget")),
        wording.epsilon(losses.get("prv"), 3),
        wording.epsilon(losses.get("rdp"), 3),
    )


def _mechanism(privacy: Mapping[str, Any]) -> list[tuple[str, object]]:
    name = str(privacy["unit"])
    counts = privacy.get("counts")
    told: list[tuple[str, object]] = []
    if isinstance(counts, Mapping):
        noise = markup.general(counts.get("noise_multiplier"))
        alone = markup.general(counts.get("epsilon"))
        text = f"noise of {noise} records, epsilon {alone} by themselves; in every loss below"
        told = [("counts after the last round", text)]
    return [
        ("unit", f"{name}: {wording.unit(privacy)}"),
        ("neighbouring data", privacy.get("adjacency")),
        ("who must be trusted", _TRUSTED.get(str(privacy.get("noise_at", "site")))),
        ("delta", markup.general(privacy.get("delta"))),
        ("noise multiplier (sigma)", markup.general(privacy.get("noise_multiplier"))),
        ("sampling rate (q)", markup.general(privacy.get("sampling_rate"))),
        ("steps", markup.integer(privacy.get("steps"))),
        ("clipping norm", markup.general(privacy.get("clip"))),
        *told,
        *_shared(privacy.get("shared", {})),
    ]


def _shared(shared: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return what epsilon comes to by how many sites are honest, where they share the noise.

    Of many counts a few: all, that which the plan rests on, three quarters, half, a quarter, one.
    """
    losses = {int(count): loss for count, loss in shared.get("epsilon", {}).items()}
    if not losses:
        return []
    sites, planned = shared["sites"], shared["honest"]
    groups = shared.get("groups", 1)
    told: list[tuple[str, object]] = []
    if groups > 1:
        told = [("sums of a round", f"{groups}, of {sites // groups} sites each")]
    few = {max(losses), planned, *(math.ceil(sites * part) for part in _PARTS), min(losses)}
    return told + [
        (
            f"epsilon if {count} of {sites} sites are honest"
            + (", as planned" if count == planned else ""),
            wording.epsilon(losses[count], 3),
        )
        for count in sorted(losses if len(losses) <= _LISTED else few & losses.keys(), reverse=True)
    ]
