"""A federation's columns on a terminal: each figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from fedlite.reporting import terminal, wording
from fedlite.reporting.record import STATISTICS

_EPOCH = date(1970, 1, 1).toordinal()
_FIRST, _LAST = date.min.toordinal() - _EPOCH, date.max.toordinal() - _EPOCH
_BARS = " ▁▂▃▄▅▆▇█"


def print_columns(found: Mapping[str, Any], directory: str, dates: Collection[str] = ()) -> None:
    """Print what `fedlite stats` found: a row a column, then what it cost and on whom it rests.

    dates: the columns whose values are days since 1970, which are shown as dates.
    """
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("column")
    for name in ("values", "missing", "mean", "median"):
        table.add_column(name, justify="right")
    table.add_column("5 to 95 %", justify="right")
    table.add_column("histogram")
    for name, row in found["columns"].items():
        quantiles = row["quantiles"]
        dated = name in dates
        low, high = (_known(end, ".3g", dated=dated) for end in row["range"])
        table.add_row(
            wording.plain(name),
            _with_error(row["present"]),
            _between(row["share"], 100, " %"),
            _between(row["mean"], dated=dated),
            _known(quantiles["0.5"]["value"], ".4g", dated=dated),
            " .. ".join(
                _known(quantiles[q]["value"], ".3g", dated=dated) for q in ("0.05", "0.95")
            ),
            _bars(row["histogram"]) + f"  {low} .. {high}",
        )
    terminal.print_whole(table)
    shown = terminal.console()
    shown.print()
    records = next(iter(found["columns"].values()))["records"]
    shown.print(
        f"{_with_error(records)} records at {found['sites']} sites. After ± stands half of a "
        "95 % interval, in brackets one, of noise alone; every count has a standard error of "
        f"{found['error_of_counts']:.3g}."
    )
    if found["claimed"]:
        shown.print(
            f"It costs every record epsilon {wording.epsilon(found['epsilon'], 3)} at delta "
            f"{found['delta']:g} if at least {found['honest']} of {found['sites']} sites are "
            f"honest; {wording.epsilon(found['alone'], 3)} if all others collude with the server. "
            "It is in the sites' ledgers."
        )
        if not found["lasting"]:
            shown.print(
                "These ledgers began with this call, as simulation.sites is not set: another call "
                "begins new ones, and no ceiling holds the two together."
            )
    else:
        shown.print("The noise can be repeated (privacy.simulate_seed): nothing is claimed.")
    shown.print(f"{directory}/{STATISTICS} has all figures, intervals and edges.")


def _with_error(figure: Mapping[str, Any]) -> str:
    half = (figure["interval"][1] - figure["interval"][0]) / 2
    return f"{figure['value']:,.0f} ± {half:,.0f}"


def _between(
    figure: Mapping[str, Any], times: float = 1.0, unit: str = "", *, dated: bool = False
) -> str:
    """Return a quotient with the ends of its interval, which need not lie evenly around it."""
    if figure["value"] is None:
        return "unknown"
    value, low, high = (
        _known(times * value, ".3g", dated=dated)
        for value in (figure["value"], *figure["interval"])
    )
    return f"{value}{unit} ({low} to {high})"


def _known(value: float | None, digits: str, *, dated: bool = False) -> str:
    if value is None:
        return "unknown"
    # A range may reach beyond the calendar: then days are told.
    if dated and _FIRST <= round(value) <= _LAST:
        return date.fromordinal(_EPOCH + round(value)).isoformat()
    return format(value, digits)


def _bars(counts: list[float]) -> str:
    most = max(max(counts), 1e-300)
    last = len(_BARS) - 1
    return "".join(_BARS[round(max(0.0, count) / most * last)] for count in counts)
