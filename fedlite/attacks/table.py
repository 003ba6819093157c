"""An audit on a terminal, and its one figure."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlite.attacks.bounds import gaussian_curve
from fedlite.attacks.verdict import STEP, Finding, Report
from fedlite.reporting import terminal
from fedlite.reporting.drawing import BLUE, GREY, VERMILLION
from fedlite.storage import write_atomic

FIGURE = "mechanism.png"
_STYLES = {"pass": "green", "fail": "bold red", "not checked": "yellow"}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print one row a check, what each takes for granted, and the result in one sentence."""
    console = console or terminal.console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("check", max_width=18)
    table.add_column("verdict")
    table.add_column("epsilon", justify="right")
    table.add_column("found; what it takes for granted; what it cannot see", ratio=1)
    for finding in report.findings:
        text = Text(finding.found)
        for name, limit in (("assumes", finding.assumes), ("cannot see", finding.blind)):
            if limit:
                text.append(f"\n{name}: {limit}", style="dim")
        style = _STYLES[finding.outcome]
        table.add_row(finding.check, Text(finding.outcome, style=style), epsilon_of(finding), text)
    console.print(table)
    console.print(
        f"Each bound (>=) holds with {report.confidence:.0%} confidence by itself; an estimate (~) "
        f"is none. {report.seconds:.0f} seconds."
    )
    console.print(report.sentence, style="bold" if not report.failed else "bold red")


def epsilon_of(finding: Finding) -> str:
    """Return a finding's epsilon for a table: a bound rounded down, an estimate marked as one."""
    if finding.epsilon is None:
        return ""
    if finding.kind == "bound":
        return f">= {int(finding.epsilon * 100) / 100:.2f}"
    return f"~ {finding.epsilon:.2f}"


def draw(report: Report, directory: Path) -> Path:
    """Write the figure into `directory`: measured beside proven epsilon, and the step's ROC."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    bars, roc = figure.subplots(1, 2, width_ratios=(3, 2))
    measured = [f for f in report.findings if f.epsilon is not None]
    names = [f.check for f in measured]
    values = [f.epsilon or 0.0 for f in measured]
    colours = [BLUE if f.kind == "bound" else GREY for f in measured]
    bars.barh(names, values, color=colours, height=0.6)
    for name, finding in zip(names, measured, strict=True):
        bars.annotate(
            f" {epsilon_of(finding)}", (finding.epsilon or 0.0, name), va="center", fontsize=8
        )
    bars.axvline(report.proven, color=VERMILLION)
    bars.set_title(f"proven: {report.proven:.2f}", color=VERMILLION, fontsize=10, loc="right")
    bars.invert_yaxis()
    bars.set_xlim(0, 1.25 * max([report.proven, *values]))
    bars.set_xlabel(f"epsilon at delta {report.delta:g}; grey: estimates")
    curve = gaussian_curve(report.mu)
    rates = [i / 200 for i in range(201)]
    roc.plot([curve(rate) for rate in rates], rates, color=VERMILLION, label="the claim's limit")
    if report.roc:
        roc.plot(*zip(*report.roc, strict=True), color=BLUE, linestyle="--", label="measured")
    roc.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="chance")
    roc.set_xlabel("false positive rate")
    roc.set_ylabel("true positive rate")
    roc.set_title(f"{STEP}: one release", fontsize=10)
    roc.legend(fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=160)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / FIGURE, image.getvalue())
    return directory / FIGURE
