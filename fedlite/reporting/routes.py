"""What a run says of which inputs leave early: in words, and accuracy against work as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fedlite.reporting import wording
from fedlite.reporting.drawing import BLUE, GREEN, GREY, VERMILLION, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def verdict(told: Mapping[str, Any]) -> str:
    """Return in a few sentences what was promised, and what was measured."""
    said = promise(told, told)
    if told["kind"] == "pooled" and told["threshold"] is None:
        return said
    if "tested" not in told:
        return f"{said} {_counted(told)}"
    lost = f"{100 * told['loss']:.2f} points of accuracy are lost"
    lost += f" ({100 * told['harm']:.2f} % of answers harmed)"
    return (
        f"{said} Measured: {wording.share(told['share_shallow'])} of inputs leave early, {lost}, "
        f"{_work(told)} of the work of the deep branch."
    )


def _counted(told: Mapping[str, Any]) -> str:
    """Return what the sites' counts themselves say, where nothing else is known."""
    every = [told["counted"]] if "counted" in told else []
    every = every or [row["counted"] for row in told["by_site"].values()]
    shares = sorted(row["share_shallow"] for row in every)
    if not shares:
        return "No site has told its counts."
    early = wording.share(shares[0])
    if len(shares) > 1:
        early = f"between {early} and {wording.share(shares[-1])}, site by site,"
    about = "about " if "epsilon" in told else ""
    return (
        f"By the sites' counts {about}{early} of the calibration records leave early; nothing was "
        "measured on others, as the sites alone hold records."
    )


def promise(told: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """Return what is promised of a threshold, for a person.

    told: the summary's `inference`. choice: what has the threshold: the same, or one of its sites.
    """
    # As it was asked for: rounded, 0.9999999 would be a promise without any doubt.
    accepted, sure = _hundredfold(told["alpha"]), f"{_hundredfold(told['confidence'])} %"
    if "threshold" in choice and choice["threshold"] is None:
        if choice["missing"]:
            why = (
                f"{wording.count(choice['missing'], 'calibration record')} more would be needed "
                f"to promise a loss of at most {accepted} points"
            )
        else:
            # A threshold may well keep it: the test could not tell by these records.
            why = (
                f"the calibration records show of no threshold that it keeps the loss to "
                f"{accepted} points"
            )
        return f"All inputs go deep: {why}, with probability {sure}."
    loss = f"t most {accepted} points of the deep branch's accuracy are"
    start = "It is meant that a" if told["kind"] == "shrunk" else "A"
    copied = ""
    if told.get("copies"):
        copied = (
            f" {wording.count(told['copies'], 'calibration record')} had the values of others, so "
            "the probability may be lower."
        )
    return f"{start}{loss} lost, with probability {sure}; that {told['promise']}.{copied}"


def _hundredfold(value: float) -> str:
    """Return a hundred times a number, in the digits that it was written with.

    >>> _hundredfold(0.02), _hundredfold(0.9999999), _hundredfold(0.1)
    ('2', '99.99999', '10')
    """
    return f"{(100 * Decimal(repr(float(value)))).normalize():f}"


def _work(told: Mapping[str, Any]) -> str:
    return wording.share(told["macs"]["adaptive"] / told["macs"]["deep"])


def draw(inference: Mapping[str, Any]) -> Figure:
    """Draw what each threshold comes to on held-out records, and the one that was chosen.

    inference: that part of a run's summary.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    work, accuracy = inference["macs"], inference["accuracy"]
    axes.set_title("Accuracy against work on held-out data")
    axes.set_xlabel("multiply-adds for an input, mean (thousands)")
    axes.set_ylabel("accuracy (%)")
    rows = inference["curve"]
    across = [row["macs"] / 1000 for row in rows]
    axes.plot(across, [100 * row["accuracy"] for row in rows], color=GREY, linewidth=1.5)
    floor = 100 * (accuracy["deep"] - inference["alpha"])
    axes.axhline(floor, color=GREY, linestyle=":", linewidth=1.2)
    # At the left, as deep is at the right; on the other side of the line from shallow.
    below = 100 * accuracy["shallow"] <= floor
    axes.annotate(
        f"deep less {(given := 100 * inference['alpha']):g} point{'' if given == 1 else 's'}",
        (0.01, floor),
        xycoords=("axes fraction", "data"),
        ha="left",
        va="bottom" if below else "top",
        fontsize=9,
        color=GREY,
    )
    points = (
        ("shallow", VERMILLION, "s", (8, -13 if below else 5), "left"),
        ("deep", BLUE, "D", (0, -17), "center"),
        ("adaptive", GREEN, "o", (0, 9), "center"),
    )
    for name, colour, marker, shift, side in points:
        at = work[name] / 1000, 100 * accuracy[name]
        axes.plot(*at, marker, color=colour, markersize=9 if name == "adaptive" else 7)
        said = f"{'chosen' if name == 'adaptive' else name} {wording.share(accuracy[name])}"
        axes.annotate(
            said, at, shift, textcoords="offset points", ha=side, color=colour, fontsize=10
        )
    axes.margins(0.08, 0.2)
    return figure
