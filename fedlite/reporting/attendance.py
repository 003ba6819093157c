"""Who took part in which round, from the record: as a grid of states, in numbers, and drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedlite.reporting import wording
from fedlite.reporting.record import RoundRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IDLE, USED, LATE, VOID, DECLINED, OUT, MISSING, BAD = range(1, 9)
"""The states of a site in a round; 0 before it was first there."""

# From quiet to loud; every pair is told apart by lightness or by every common colour vision.
STATES = {
    IDLE: ("not drawn", "#f0f0f0"),
    USED: ("used", "#9ecae1"),
    LATE: ("answered, not among the first", "#c7e9c0"),
    VOID: ("answered, in a round that did not count", "#3182bd"),
    DECLINED: ("declined with a code", "#f0e442"),
    OUT: ("not asked: offline, at rest or spent", "#bdbdbd"),
    MISSING: ("missing at the deadline", "#D55E00"),
    BAD: ("no valid update", "#000000"),
}
_BAD = ("bad-update", "ledger")
_ROWS, _COLUMNS = 120, 200
_NAME = 24


def grid(rounds: Sequence[RoundRecord]) -> dict[str, list[int]]:
    """Return the states of each site, one a round, by name in order.

    Empty where the record does not say who was there, as an older one does not.
    """
    joined: dict[str, int] = {}
    for at, record in enumerate(rounds):
        joined |= {site: at for site in record.joined if site not in joined}
    found = {site: [0] * len(rounds) for site in sorted(joined)}
    for at, record in enumerate(rounds):
        answered = USED if record.accepted else VOID
        for site, states in found.items():
            if at >= joined[site]:
                drawn = not record.asked or site in record.asked
                states[at] = answered if drawn else IDLE
                if site in record.late:
                    states[at] = LATE
                elif site in record.out:
                    states[at] = OUT
                elif site in record.missing:
                    states[at] = MISSING
                elif site in record.dropped:
                    states[at] = BAD if record.dropped[site] in _BAD else DECLINED
    return found


def rested(rounds: Sequence[RoundRecord]) -> dict[str, int]:
    """Return in how many rounds each site was at rest for its strikes, if in any."""
    return dict(
        sorted(Counter(s for r in rounds for s, why in r.out.items() if why == "resting").items())
    )


def worth_drawing(rounds: Sequence[RoundRecord]) -> bool:
    """Whether some site was not used in some round, and the record says where each was."""
    return any(set(states) - {USED} for states in grid(rounds).values())


def draw(rounds: Sequence[RoundRecord]) -> Figure:
    """Return the figure: a row a site, a column a round; call it where `worth_drawing`.

    Of many sites those that failed or were away most are shown, and first; those that were drawn
    most, where nobody did. Of many rounds the worst of several is in one column.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    found = grid(rounds)
    shown = sorted(found)
    if len(found) > _ROWS:
        # Where nobody failed, a sample of those never drawn would be a blank page.
        failed = any(state > VOID for states in found.values() for state in states)
        least, most = (VOID, "failed or were away") if failed else (IDLE, "were drawn")
        shown.sort(key=lambda site: sum(state > least for state in found[site]), reverse=True)
        shown = shown[:_ROWS]
    step = -(-len(rounds) // _COLUMNS)
    cells = [
        [max(found[site][at : at + step]) for at in range(0, len(rounds), step)] for site in shown
    ]
    named = len(shown) <= 40
    row = 0.24 if named else 0.075
    figure = Figure(figsize=(8.0, 1.35 + max(0.5, row * len(shown))), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap(["#ffffff", *(colour for _, colour in STATES.values())])
    first, last = rounds[0].round - 0.5, rounds[-1].round + 0.5
    axes.imshow(
        cells,
        cmap=colours,
        norm=BoundaryNorm([n - 0.5 for n in range(len(STATES) + 2)], colours.N),
        aspect="auto",
        interpolation="nearest",
        extent=(first, first + step * len(cells[0]), len(shown) - 0.5, -0.5),
    )
    axes.set_xlim(first, last)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if named:
        axes.set_yticks(range(len(shown)), [_short(site) for site in shown])
        for at in range(1, len(shown)):
            axes.axhline(at - 0.5, color="white", linewidth=1.0)
        if len(rounds) <= 60:
            for record in rounds[1:]:
                axes.axvline(record.round - 0.5, color="white", linewidth=1.0)
    else:
        axes.set_yticks([])
        few = f"the {len(shown)} that {most} most, of " if len(shown) < len(found) else ""
        axes.set_ylabel(f"{few}{len(found)} sites")
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("round" if step == 1 else f"round; a column is the worst of {step}")
    seen = {state for row_ in cells for state in row_} - {0}
    patches = [
        Patch(facecolor=colour, edgecolor="#888888", linewidth=0.5, label=words)
        for state, (words, colour) in STATES.items()
        if state in seen
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


def _short(site: str) -> str:
    # In the middle: names of many sites begin alike.
    plain, half = wording.plain(site), _NAME // 2
    return plain if len(plain) <= _NAME else f"{plain[:half]}…{plain[1 - half :]}"
