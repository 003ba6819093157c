"""The report's sections on what left a site and how well that is protected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlite.reporting import markup, wording

_SIMULATED = {"serial", "pool", "ray"}
# Said in full: "records" alone would read as if the records themselves had left.
_DISCLOSED = {
    "records": "how many records it trained on",
    "loss": "its loss",
    "accuracy": "its accuracy",
}
_TRUSTED = {
    "site": "each site's own code and random numbers",
    "server": "the server: its clipping, its noise and what it forgets",
}


def what_left(summary: Mapping[str, Any]) -> list[str]:
    """Return the section that names everything that a site sent."""
    disclosed = summary.get("disclosed", [])
    parts = [markup.heading("What left a site")]
    if disclosed:
        parts.append(
            markup.paragraph(
                "The compressed update, and beside it what each site's policy let out: "
                f"{', '.join(_DISCLOSED.get(item, str(item)) for item in disclosed)}."
            )
        )
    else:
        parts.append(
            markup.paragraph(
                f"The compressed update{_head(summary)} and nothing else: no record, no loss, "
                "no accuracy, no exact count of records."
            )
        )
    if summary.get("engine") in _SIMULATED:
        told = (
            "This run was a simulation on one machine, which held every site's data: "
            "the figures site by site were computed there and sent by nobody."
        )
        if wording.claimed(summary["privacy"]):
            told += (
                " Scores and counts of held-out records are exact, and no epsilon covers them: "
                "they are not for those from whom the records are to be protected."
            )
        parts.append(markup.paragraph(told, "soft"))
    return parts


def _head(summary: Mapping[str, Any]) -> str:
    private = wording.claimed(summary["privacy"])
    return ", the signed head of its privacy ledger," if private else ""


def privacy_section(privacy: Mapping[str, Any], sites: Sequence[str]) -> list[str]:
    """Return the section on the mechanism and every site's privacy loss; `sites` orders it."""
    parts = [markup.heading("Privacy")]
    if privacy.get("unit", "none") == "none":
        parts.append(markup.paragraph("No privacy is claimed: no noise was added to any update."))
        return parts
    if not wording.claimed(privacy):
        parts.append(
            markup.paragraph(
                "No privacy is claimed: noise was seeded, so whoever knows the seed can take it "
                "away. The epsilons below are what the same mechanism would cost with noise from "
                "the operating system's entropy.",
                "warn",
            )
        )
    parts.append(markup.facts(_mechanism(privacy)))
    rows = []
    for site in wording.in_order(privacy["sites"], sites):
        row = privacy["sites"][site]
        losses = row.get("epsilon", {})
        rows.append(
            [
                site,
                wording.epsilon(losses.get("pld"), 3),
                wording.budget(row.get("budget")),
                wording.epsilon(losses.get("prv"), 3),
                wording.epsilon(losses.get("rdp"), 3),
                markup.integer(row.get("releases")),
            ]
        )
    head = ["site", "PLD", "budget", "PRV", "RDP", "releases"]
    parts.append(markup.table(head, rows, caption="Epsilon of each site; smaller protects more"))
    parts.append(
        markup.paragraph(
            "Each figure is that of the whole plan, however early the run or a site stopped. PLD "
            "is the pessimistic bound that the budget is held against. PRV comes from another "
            f"library; {_error(privacy)}RDP is a looser bound. Every figure is rounded up.",
            "soft",
        )
    )
    if text := wording.prefix(privacy):
        parts.append(markup.paragraph(text, "soft"))
    return parts


def _error(privacy: Mapping[str, Any]) -> str:
    errors = [r["prv_error"] for r in privacy["sites"].values() if r.get("prv_error") is not None]
    if not errors:
        return ""
    return f"it is an upper bound that includes its own stated error, {max(errors):g}. "


def _mechanism(privacy: Mapping[str, Any]) -> list[tuple[str, object]]:
    name = str(privacy["unit"])
    return [
        ("unit", f"{name}: {wording.unit(privacy)}"),
        ("neighbouring data", privacy.get("adjacency")),
        ("who must be trusted", _TRUSTED.get(str(privacy.get("noise_at", "site")))),
        ("delta", markup.general(privacy.get("delta"))),
        ("noise multiplier (sigma)", markup.general(privacy.get("noise_multiplier"))),
        ("sampling rate (q)", markup.general(privacy.get("sampling_rate"))),
        ("steps", markup.integer(privacy.get("steps"))),
        ("clipping norm", markup.general(privacy.get("clip"))),
    ]
