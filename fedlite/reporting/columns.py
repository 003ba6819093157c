"""A federation's columns on a terminal: each figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlite.reporting import terminal, wording

_BARS = " ▁▂▃▄▅▆▇█"


def print_columns(found: Mapping[str, Any], directory: str) -> None:
    """Print what `fedlite stats` found: a row a column, then what it cost and on whom it rests."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("column")
    for name in ("values", "missing", "mean", "median"):
        table.add_column(name, justify="right")
    table.add_column("5 to 95 %", justify="right")
    table.add_column("histogram")
    for name, row in found["columns"].items():
        quantiles = row["quantiles"]
        table.add_row(
            wording.plain(name),
            _with_error(row["present"], 0),
            _share(row["share"]),
            _with_error(row["mean"]),
            f"{quantiles['0.5']['value']:.4g}",
            f"{quantiles['0.05']['value']:.3g} .. {quantiles['0.95']['value']:.3g}",
            _bars(row["histogram"]) + f"  {row['range'][0]:.3g} .. {row['range'][1]:.3g}",
        )
    terminal.print_whole(table)
    shown = terminal.console()
    shown.print()
    records = next(iter(found["columns"].values()))["records"]
    shown.print(
        f"{_with_error(records, 0)} records at {found['sites']} sites. After ± stands half of a "
        "95 % interval, of noise alone; every count has a standard error of "
        f"{found['error_of_counts']:.3g}."
    )
    if found["claimed"]:
        shown.print(
            f"It costs every record epsilon {wording.epsilon(found['epsilon'], 3)} at delta "
            f"{found['delta']:g} if at least {found['honest']} of {found['sites']} sites are "
            f"honest; {wording.epsilon(found['alone'], 3)} if all others collude with the server. "
            "It is in the sites' ledgers."
        )
    else:
        shown.print("The noise can be repeated (privacy.simulate_seed): nothing is claimed.")
    shown.print(f"{directory}/statistics.json has all figures, intervals and edges.")


def _with_error(figure: Mapping[str, Any], digits: int | None = None) -> str:
    if figure["value"] is None:
        return "unknown"
    half = (figure["interval"][1] - figure["interval"][0]) / 2
    if digits is not None:
        return f"{figure['value']:,.{digits}f} ± {half:,.{digits}f}"
    return f"{figure['value']:.4g} ± {half:.2g}"


def _share(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "unknown"
    half = (figure["interval"][1] - figure["interval"][0]) / 2
    return f"{100 * figure['value']:.1f} ± {100 * half:.1f} %"


def _bars(counts: list[float]) -> str:
    most = max(max(counts), 1e-300)
    last = len(_BARS) - 1
    return "".join(_BARS[round(max(0.0, count) / most * last)] for count in counts)
