"""How figures are put into words: sizes, shares, ratios, epsilons, durations, and the verdict.

Numbers are rounded against the project's own interest: an epsilon is rounded up, a saving down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from fedlite.reporting import chance, measures, scores
from fedlite.reporting.formats import ABSENT as ABSENT, number_of, score as score, share as share

_UNITS = {"record": "one record of a site", "client": "one whole site", "none": "nothing"}


def plain(text: object) -> str:
    r"""Return text without control, escape or direction characters, which could forge a display.

    >>> plain("site\x1b[31m")
    'site�[31m'
    """
    return "".join(c if c.isprintable() else "�" for c in str(text))


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `count(1, "site")` is "1 site".

    >>> count(20640, "parameter")
    '20,640 parameters'
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def megabytes(size: float) -> str:
    """Return a size in bytes as MB (10**6 bytes), with at least two significant digits.

    >>> megabytes(2_477_000), megabytes(18_700), megabytes(512), megabytes(0)
    ('2.48 MB', '0.019 MB', '512 bytes', '0 bytes')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    value, unit = (size / 1e9, "GB") if size >= 999.5e6 else (size / 1e6, "MB")
    if value >= 99.95:
        return f"{value:.0f} {unit}"
    if value >= 9.995:
        return f"{value:.1f} {unit}"
    if value >= 0.0995:
        return f"{value:.2f} {unit}"
    return f"{value:.3f} {unit}" if value >= 0.00995 else f"{value:.4f} {unit}"


def times(ratio: float) -> str:
    """Return a ratio of dense to sent bytes as words, a saving rounded down.

    >>> times(132.96), times(4.28), times(1.04), times(0.5)
    ('132 times less', '4.2 times less', 'about as much', '2.0 times more')
    """
    if ratio <= 0 or not math.isfinite(ratio):
        return "nothing was sent"
    if ratio < 1:
        return f"{math.ceil(10 / ratio - 1e-9) / 10:.1f} times more"
    return f"{_floor(ratio)} times less" if ratio >= 1.1 - 1e-9 else "about as much"


def factor(ratio: float) -> str:
    """Return a ratio of dense to sent bytes in short: "132x"; a saving is rounded down."""
    return f"{_floor(ratio)}x" if ratio > 0 and math.isfinite(ratio) else ABSENT


def _floor(ratio: float) -> str:
    # 1e-9 keeps a ratio such as 4.3, which is 4.2999... in binary, from losing a tenth.
    if ratio >= 10:
        return f"{math.floor(ratio + 1e-9):,}"
    return f"{math.floor(ratio * 10 + 1e-9) / 10:.1f}"


def epsilon(value: object, places: int = 2) -> str:
    """Return an epsilon rounded up, so that no printed loss is smaller than the real one.

    >>> epsilon(1.87), epsilon(2.991), epsilon(0.0031), epsilon(8.13e-8), epsilon(None)
    ('1.87', '3.00', '0.0031', '8.2e-08', '-')
    """
    number = number_of(value)
    if number is None:
        return ABSENT
    if 0 < number < 0.1:
        places = max(places, 1 - math.floor(math.log10(number)))
    # The shortest decimal that means this float: 1.87 stays 1.87 and does not become 1.88.
    exact = Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), rounding=ROUND_CEILING)
    # As Python writes so small a float, and so a budget: the two stand side by side.
    return f"{float(exact):.1e}" if 0 < number < 1e-4 else str(exact)


def budget(value: object) -> str:
    """Return a budget as it was given, with two decimals unless it has more."""
    number = number_of(value)
    if number is None:
        return ABSENT
    return f"{number:.2f}" if round(number, 2) == number else repr(number)


def duration(seconds: float) -> str:
    """Return seconds as m:ss, or h:mm:ss from an hour on.

    >>> duration(21), duration(3725)
    ('0:21', '1:02:05')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def unit(privacy: Mapping[str, Any]) -> str:
    """Return the privacy unit in words."""
    name = str(privacy.get("unit", "none"))
    return _UNITS.get(name, plain(name))


def branch(by_site: Mapping[str, Any] | None, site: str, name: str) -> object:
    """Return one branch's figure at one site, or None when it is not in the record."""
    row = (by_site or {}).get(site)
    return row.get(name) if isinstance(row, Mapping) else None


def claimed(privacy: Mapping[str, Any]) -> bool:
    """Return whether a run claims any privacy; a record that does not say so claims none."""
    return privacy.get("unit", "none") != "none" and privacy.get("claimed") is True


def in_order(found: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    """Return a mapping's keys in a known order, then any others (a JSON file sorts its keys)."""
    return [key for key in order if key in found] + [key for key in found if key not in order]


def worst(privacy: Mapping[str, Any]) -> float | None:
    """Return the largest pessimistic (PLD) epsilon of any site; None when one has no bound."""
    losses = [number_of(row.get("epsilon", {}).get("pld")) for row in privacy["sites"].values()]
    known = [loss for loss in losses if loss is not None]
    return max(known) if known and len(known) == len(losses) else None


def prefix(privacy: Mapping[str, Any]) -> str:
    """Return what the steps so far would have cost where not all were asked for; "" otherwise.

    No bound: whether a run stopped there may have depended on what it had released.
    """
    planned, rows = number_of(privacy.get("steps")), privacy.get("sites", {}).values()
    found = [row["prefix"] for row in rows if isinstance(row.get("prefix"), Mapping)]
    known = [(number_of(one.get("steps")), number_of(one.get("epsilon"))) for one in found]
    steps, loss = max(((s, e) for s, e in known if s is not None and e is not None), default=(0, 0))
    if not claimed(privacy) or planned is None or not 0 < steps < planned:
        return ""
    return (
        f"At most {steps:,.0f} of {planned:,.0f} steps were asked of a site; had this number been "
        f"fixed beforehand, its loss would be epsilon {epsilon(loss)}. The bound is that of the "
        "whole plan."
    )


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return what a run came to, as plain sentences (not yet escaped for HTML)."""
    sites, sent = len(summary["sites"]), summary["bytes"]
    rounds = count(summary["rounds"], "round")
    lines = [f"{count(sites, 'site')} trained one model in {rounds}."]
    updates = summary.get("updates", {})
    whole = not updates.get("dropped") and not updates.get("missing")
    same = whole and updates.get("accepted") == sites * summary["rounds"]
    if sites and sent["up"] > 0:
        who = "Each site sent" if same else "On average a site sent"
        many = sites
        if used := used_of_some(summary):
            who, many = "For each update that was used the sites sent", used
        lines.append(
            f"{who} {megabytes(sent['up'] / many)} instead of "
            f"{megabytes(sent['dense_up'] / many)} ({times(sent['up_ratio'])})."
        )
    privacy = summary["privacy"]
    lines += [_quality(summary), chance.told(summary), *selected(summary)]
    lines += [_privacy(privacy), prefix(privacy), spent(summary)]
    refused = summary.get("refused", [])
    if refused:
        codes = ", ".join(sorted(set(map(plain, refused))))
        lines.append(f"Refused before its first round: {count(len(refused), 'site')} ({codes}).")
    if not whole:
        dropped, missing = updates.get("dropped", 0), updates.get("missing", 0)
        lines.append(f"Updates dropped: {dropped:,}; missing at the deadline: {missing:,}.")
    lines += [spoilt(summary), _rested(summary), _cut(summary)]
    lines.append(f"This is one run; seed {summary['seed']}.")
    return [line for line in lines if line]


def used_of_some(summary: Mapping[str, Any]) -> int:
    """Return how many updates were used where not every site was asked in every round; else 0.

    A mean over sites would there be one over many that were never asked.
    """
    updates = summary.get("updates", {})
    asked = sum(updates.get(key, 0) for key in ("accepted", "dropped", "missing"))
    some = 0 < asked < len(summary["sites"]) * summary["rounds"]
    return int(updates.get("accepted", 0)) if some else 0


def holding_out(summary: Mapping[str, Any]) -> bool:
    """Return whether a score of some site on its own held-out records is in the record."""
    parts = [summary["accuracy"], *measures.measured(summary).values()]
    rows = (row for part in parts for row in (part.get("by_site") or {}).values())
    return any(number_of(value) for row in rows for value in row.values())


def selected(summary: Mapping[str, Any]) -> list[str]:
    """Return which round's model is released, and whether the run ended early; else nothing."""
    chosen = summary.get("selection")
    if not isinstance(chosen, Mapping) or number_of(chosen.get("value")) is None:
        return []
    name, lines = str(chosen["score"]), []
    value = scores.kind(name).say(chosen["value"])
    what = f"{plain(scores.title(name))} on the {plain(chosen['on'])}"
    if chosen.get("keep") == "best":
        lines.append(f"The model is of round {chosen['round']:,}, the best by {what}: {value}.")
        if chosen["on"] == summary["accuracy"].get("on"):
            lines.append("Chosen by these very records, its score on them flatters it.")
    if chosen.get("stopped"):
        lines.append(
            f"The run ended after round {summary['rounds']:,} of {summary['planned_rounds']:,}: "
            f"{count(chosen['patience'], 'scored round')} in a row were no better by {what} than "
            f"round {chosen['round']:,}, with {value}."
        )
    return lines


def spoilt(summary: Mapping[str, Any]) -> str:
    """Return that rounds moved the model out of all proportion, and which; "" if none did."""
    jumps = {
        number: times for number, times in summary.get("jumps", {}).items() if number_of(times)
    }
    if not jumps:
        return ""
    worst = max(jumps, key=lambda number: float(jumps[number]))
    told = f"round {plain(worst)} moved it {jumps[worst]:.2g} times as far as usual"
    more = f", and {count(len(jumps) - 1, 'round')} more than 100 times" if len(jumps) > 1 else ""
    return f"The model may be spoilt: {told}{more}; look at who took part in it before using it."


def _rested(summary: Mapping[str, Any]) -> str:
    names = summary.get("rested", {})
    return f"Asked less, as they did not answer or not validly: {_names(names)}." if names else ""


def _cut(summary: Mapping[str, Any]) -> str:
    cut = summary.get("updates", {}).get("cut")
    return f"Updates longer than any honest one, and cut: {cut:,}." if cut else ""


def _names(names: Iterable[str]) -> str:
    found = [plain(name) for name in names]
    return ", ".join(found) if len(found) <= 5 else f"{len(found)} sites"


def unmeasured(summary: Mapping[str, Any]) -> str:
    """Return that no score was measured, and why; "" when there is one."""
    first, part = measures.part_of(summary)
    if number_of(part.get("deep")) is not None:
        return ""
    why = ": the coordinator holds no records" if summary.get("data", {}).get("at_sites") else ""
    return f"no {first.name} was measured{why}"


def measured_on(summary: Mapping[str, Any]) -> list[str]:
    """Return what the figures of "all" are measured on, and how far a site's own can be trusted."""
    quality, areas = summary["accuracy"], summary.get("auc", {}).get("by_site") or {}
    rows, right = quality.get("by_site") or {}, number_of(quality.get("deep")) is not None
    held = {site: n for site in rows if (n := int(number_of(branch(rows, site, "records")) or 0))}
    least, own = min(held.values(), default=0), f"own {sum(held.values()):,} held-out records"
    if quality.get("of") == "global test set":
        whole = count(quality["records"], "record")
        lines = [f"“All” is the global test set of {whole}, which no site holds."]
        lines += [f"The sites are measured on their {own}."] if held else []
    elif quality.get("of") == "sites":
        what = "The accuracy" if right else "The figure"
        lines = [f"{what} of “all” is over the sites' {own} together, each counting once."]
    else:
        lines = [f"“All” is measured on the {quality.get('on', 'held-out data')}."]
    if quality.get("of") == "sites" and areas:
        sizes = [held.get(site, 0) for site in areas]
        few, many = min(sizes), max(sizes)
        alike = f"one with {count(few, 'record')} counts like one with {many:,}"
        alike = alike if few < many else "each counts the same"
        of = f"the mean of {len(areas):,} sites, in which {alike}"
        lines.append(f"Its AUC is {of if len(areas) > 1 else 'that of one site'}.")
        if alone := len(held) - len(areas):
            lines.append(f"Without an AUC, as all their records are of one class: {alone:,}.")
    if held and right:
        lines.append(
            f"The smallest site holds out {count(least, 'record')}: one more that is right moves "
            f"its accuracy by {100 / least:.1f} points."
        )
    return lines


def _quality(summary: Mapping[str, Any]) -> str:
    if why := unmeasured(summary):
        return f"{why.capitalize()}."
    first, part = measures.part_of(summary)
    on = _scored_on(summary["accuracy"], part)
    said = first.say(part.get("deep"))
    told = f"its {first.name} is {said}"
    if first.key == "accuracy":
        told = f"it is right {said} of the time"
    if "shallow" in part:
        told += f" with the deep branch and {first.say(part['shallow'])} with the shallow one"
    others = [one for one in measures.ranked(measures.measured(summary)) if one.axis != first.axis]
    if first.key in ("r2", "f1") and others:
        parts = measures.measured(summary)
        told += "; " + ", ".join(f"{o.name} {o.say(parts[o.key].get('deep'))}" for o in others)
    return f"On the {on} {told}."


def _scored_on(quality: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """Return what a score is of: of sites that have it not, no record speaks for it."""
    held, mine = quality.get("by_site") or {}, part.get("by_site") or {}
    if quality.get("of") != "sites" or not 0 < len(mine) < len(held):
        return plain(quality.get("on", "held-out data"))
    records = sum(int(number_of(branch(held, site, "records")) or 0) for site in mine)
    sites = f"{len(mine):,} of {count(len(held), 'site')}"
    return f"own held-out parts of {sites} ({count(records, 'record')})"


def _privacy(privacy: Mapping[str, Any]) -> str:
    if privacy.get("unit", "none") == "none":
        return "No privacy is claimed: no noise was added."
    if not claimed(privacy):
        return "No privacy is claimed: noise was seeded."
    over = overspent(privacy)
    if over:
        return f"The privacy budget is exceeded at {', '.join(map(plain, over))}."
    highest = worst(privacy)
    if highest is None:
        return "No bound on the privacy loss is recorded for every site."
    trusting = privacy.get("unit") == "client" and privacy.get("noise_at") == "server"
    return (
        f"No site's privacy loss exceeds epsilon {epsilon(highest)} at delta "
        f"{privacy['delta']:g}; what is protected is {unit(privacy)}"
        + (", but not from the server, which adds the noise" if trusting else "")
        + _sharing(privacy)
    )


def _sharing(privacy: Mapping[str, Any]) -> str:
    """Return the end of a sentence on epsilon: where sites share the noise, on whom it rests."""
    return f", {told}." if (told := rests_on(privacy)) else "."


def rests_on(privacy: Mapping[str, Any]) -> str:
    """Return on whom epsilon rests and what is left otherwise; nothing where no noise is shared."""
    shared = privacy.get("shared")
    if not shared or not claimed(privacy):
        return ""
    return (
        f"if at least {shared['honest']} of its {shared['sites']} sites are honest; it is "
        f"{epsilon(shared['alone'])} if all others collude with the server"
    )


def spent(summary: Mapping[str, Any]) -> str:
    """Return who stopped because its own budget was spent, and whether that ended the run."""
    sites = summary["privacy"].get("sites", {})
    out = [name for name, row in sites.items() if row.get("out_of_budget")]
    if not out:
        return ""
    text = f"Stopped because its own privacy budget was spent: {_names(out)}."
    planned = summary.get("planned_rounds", summary["rounds"])
    if summary["rounds"] < planned:
        text += (
            f" The run ended after {summary['rounds']} of {planned} planned rounds, as too few "
            "sites were left."
        )
    return text


def overspent(privacy: Mapping[str, Any]) -> list[str]:
    """Return the sites whose pessimistic (PLD) epsilon is above their budget."""
    found = []
    for site, row in privacy.get("sites", {}).items():
        loss, limit = number_of(row.get("epsilon", {}).get("pld")), number_of(row.get("budget"))
        if loss is not None and limit is not None and loss > limit:
            found.append(site)
    return found
