"""Many runs: a sweep played, and runs set beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.api.run import Run
from fedlite.api.starting import Named, Setting, changes, shown, tables_of, text
from fedlite.rooms import open_rooms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedlite.reporting.compare import Comparison


@dataclass(frozen=True, repr=False)
class Compared:
    """Runs beside each other; those that differ by their seed only are one setting.

    A notebook shows the table and the curves.
    """

    comparison: Comparison

    def __repr__(self) -> str:
        """Return the settings and the verdict: a shell would show every figure of every run."""
        from fedlite.reporting.compare_page import verdict

        names = ", ".join(group.name for group in self.comparison.groups)
        return f"<Compared: {names}. {verdict(self.comparison)}>"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A flat row a setting, for pandas: its name, and mean, deviation and n of each figure.

        `to_first` is the mean difference of the score to the first setting, seed by seed.
        """
        from fedlite.reporting.compare_page import flat_rows

        return flat_rows(self.comparison)

    @property
    def best(self) -> str | None:
        """The setting with the best mean, by what sites hold out; None where none was scored."""
        ranked = self.comparison.ranked
        return ranked[0][0].name if ranked else None

    def figure(self, kind: str = "curves") -> Figure:
        """Return a picture: `curves` (score by round) or `pareto` (score against bytes sent up)."""
        from fedlite.reporting import compare_figures
        from fedlite.reporting.drawing import drawn

        makers = {"curves": compare_figures.curves, "pareto": compare_figures.pareto}
        if kind not in makers:
            raise ValueError(f"kind: must be one of {', '.join(makers)}, got {kind!r}")
        return drawn(lambda: makers[kind](self.comparison))

    def save(self, directory: str | Path) -> Path:
        """Write the pictures, `compare.csv` and `compare.html`, and return the page's path."""
        from fedlite.reporting.compare_page import write

        return Path(write(self.comparison, Path(directory))["page"])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from fedlite.reporting import cell

        return cell.of_comparison(self.comparison)


@dataclass(frozen=True)
class Sweep:
    """A sweep that was played: its finished runs, and why the others failed, by name."""

    directory: Path
    runs: tuple[Run, ...]
    failed: dict[str, str]

    def compare(self, score: str = "") -> Compared:
        """Set its runs beside each other; raises ValueError where none has finished."""
        from simulations.sweep import compared

        return Compared(compared(self.directory, score))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the comparison."""
        return self.compare()._repr_html_()


def compare(
    runs: Iterable[Run | str | Path] | Sweep | Run | str | Path, *, score: str = ""
) -> Compared:
    """Set finished runs beside each other: runs, their directories, or folders of runs, or one.

    score: as in `accuracy.deep`; empty: the AUC of the deep branch, of more classes than two its
    accuracy.

    Raises ValueError where the runs cannot be compared: other data, other test records.
    """
    from fedlite.reporting.compare import compare as compared

    if isinstance(runs, Sweep):
        return runs.compare(score)
    if isinstance(runs, Run | str | Path):
        runs = [runs]
    places = [run.directory if isinstance(run, Run) else Path(run) for run in runs]
    return Compared(compared(places, score))


def sweep(
    scenario: str | Path | Mapping[str, Any] = "quickstart",
    out: str | Path | None = None,
    *,
    set: Mapping[str, Setting] | None = None,
    seeds: Iterable[int] = (),
    model: Named = None,
    data: Named = None,
    strategy: Named = None,
    jobs: int = 1,
    engine: str = "auto",
    progress: bool | None = None,
) -> Sweep:
    """Run a scenario with every combination of values and every seed; one that fails is named.

    out: a folder (default: `runs/NAME-sweep`); one that holds the same sweep is taken up again.
    set: a value of a key, dotted, or a list of values to try. seeds: none: the scenario's own.
    jobs: trials at a time; more than one needs a script guarded by `if __name__ == "__main__"`.
    model, data, strategy, engine, progress: as for `simulate`.

    Raises ScenarioError before anything starts, where any trial's key is wrong.
    """
    open_rooms()
    from server.directories import free_directory
    from simulations import run, sweep as sweeps

    run.check_engine(engine)
    several = {k: v for k, v in (set or {}).items() if isinstance(v, Sequence | range)}
    varied = {k: [text(one) for one in v] for k, v in several.items() if not isinstance(v, str)}
    single: dict[str, Any] = {k: v for k, v in (set or {}).items() if k not in varied}
    tables = tables_of(scenario, changes(single, model, data, strategy))
    found = sweeps.grid(tables, varied, list(seeds))
    name = f"{found.scenario(found.trials[0]).federation.name}-sweep"
    directory = Path(out) if out else free_directory(Path("runs"), name)
    sweeps.begin(found, directory)
    outcomes = sweeps.play(
        found,
        directory,
        found.trials,
        jobs=jobs,
        engine=engine,
        tell=sweeps.Told(len(found.trials), quiet=not shown(progress)),
    )
    runs = [Run((directory / name).absolute()) for name, o in outcomes.items() if not o.error]
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.error}
    return Sweep(directory.absolute(), tuple(runs), failed)
