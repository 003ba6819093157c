"""`fedlite sweep` and `fedlite compare`: many runs, and runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import FAILED, SCENARIO_HELP, Json, begun, fail, print_json, told

if TYPE_CHECKING:
    from simulations.sweep import Outcome, Sweep

Score = Annotated[
    str,
    typer.Option(
        help="The score to go by, as accuracy.deep. Default: the deep branch's AUC, of more "
        "classes than two its accuracy."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(sweep)
    app.command()(compare)


def sweep(
    scenario: Annotated[str | None, typer.Argument(help=SCENARIO_HELP)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE,VALUE",
            help="Values of a key; repeatable: every combination is tried. A value that holds a "
            "comma stands in double quotes.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="As 1-5 or 1,3,7. Default: the scenario's own.")] = "",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Trials at a time.")] = 1,
    search: Annotated[
        str, typer.Option(help="optuna: a coarse grid over the ranges, then around its best three.")
    ] = "",
    trials: Annotated[int, typer.Option(min=1, help="Settings that a search tries.")] = 20,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range", metavar="SECTION.KEY=LOW:HIGH[:log]", help="What a search may try."
        ),
    ] = None,
    score: Score = "",
    engine: Annotated[
        str, typer.Option(help="auto, serial, pool or ray, for each trial.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder; new, or empty. Default: runs/NAME-sweep.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the sweep in this folder; its finished trials are kept."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a scenario with many settings and seeds, and set the runs beside each other.

    Exits with 1 when any trial failed.
    """
    with told():
        from fedlite.scenario import ScenarioError, read
        from server.directories import free_directory
        from simulations import run, search as searching, sweep as sweeps

        run.check_engine(engine)
        if resume is not None:
            if scenario or settings or seeds or search or ranges or out or score:
                raise ScenarioError(
                    "--resume: a sweep goes on as it began; leave out all but --jobs, --engine and "
                    "--json"
                )
            found, directory = sweeps.opened(resume), resume
        else:
            tables = read(run.scenario_path(scenario or "quickstart"))
            choices = sweeps.choices_of(settings or [])
            found = sweeps.grid(tables, choices, sweeps.seeds_of(seeds))
            if search or ranges:
                found = _search(found, choices, seeds, search, ranges or [], trials, score)
            name = f"{found.scenario(found.trials[0]).federation.name}-sweep"
            directory = out or free_directory(Path("runs"), name)
            sweeps.begin(found, directory)
        tell = sweeps.Told(_count(found), quiet=as_json)
        try:
            with begun():
                if found.search:
                    found, outcomes = searching.play_search(
                        found, directory, jobs=jobs, engine=engine, tell=tell
                    )
                else:
                    outcomes = sweeps.play(
                        found, directory, found.trials, jobs=jobs, engine=engine, tell=tell
                    )
        except KeyboardInterrupt:
            fail(f"interrupted; go on with: fedlite sweep --resume {directory}", 130)
        _end(found, directory, outcomes, as_json)


def _search(
    found: Sweep,
    choices: dict[str, list[str]],
    seeds: str,
    search: str,
    ranges: list[str],
    trials: int,
    score: str,
) -> Sweep:
    """Return a search in place of the grid that its single values make."""
    from fedlite.scenario import ScenarioError, overridden
    from simulations import search as searching
    from simulations.sweep import seeds_of

    if search != "optuna":
        raise ScenarioError(f"--search: must be optuna where --range is given, got {search!r}")
    several = [key for key, values in choices.items() if len(values) > 1]
    if several:
        raise ScenarioError(
            f"--set {several[0]}: must have one value in a search, got "
            f"{', '.join(choices[several[0]])}; give it a --range, or one value"
        )
    tables = overridden(found.tables, [f"{key}={values[0]}" for key, values in choices.items()])
    own = found.scenario(found.trials[0]).federation.seed
    wanted = searching.Search(
        searching.ranges_of(ranges), trials, tuple(seeds_of(seeds)), score, own
    )
    return searching.begin(tables, wanted)


def _count(found: Sweep) -> int:
    """Return how many trials there will be at most."""
    if not found.search:
        return len(found.trials)
    return int(found.search["settings"]) * max(1, len(found.search["seeds"]))


def _end(found: Sweep, directory: Path, outcomes: dict[str, Outcome], as_json: bool) -> None:
    """Compare what has finished, and say what has not."""
    from fedlite.reporting import compare_page
    from simulations.sweep import LOG, compared

    failed = {name: o.error for name, o in outcomes.items() if o.error}
    skipped = [trial.name for trial in found.trials if trial.name not in outcomes]
    made: dict[str, Any] = {"directory": str(directory), "failed": failed, "not_tried": skipped}
    if len(failed) < len(outcomes):
        comparison = compared(directory)
        made |= compare_page.write(comparison, directory)
        if not as_json:
            compare_page.print_comparison(comparison, str(made["page"]))
    if as_json:
        print_json(made)
    if failed:
        lines = [f"{len(failed)} of {len(outcomes)} trials failed: {', '.join(failed)}"]
        if skipped:
            lines.append(f"not tried, as the sites' budgets are spent: {', '.join(skipped)}")
        lines.append(f"their {LOG} says more; try again with: fedlite sweep --resume {directory}")
        fail("\n".join(lines), FAILED)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of runs.")
    ],
    score: Score = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures and the page. Default: the sweep's, else new."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set finished runs beside each other: those that differ by their seed only are one setting."""
    with told():
        from fedlite.reporting import compare as comparing, compare_page
        from server.directories import free_directory
        from simulations.sweep import FILE, compared

        sweeping = len(runs) == 1 and (runs[0] / FILE).is_file()
        found = compared(runs[0], score) if sweeping else comparing.compare(runs, score)
        directory = out or (runs[0] if sweeping else free_directory(Path("runs"), "compare"))
        made = compare_page.write(found, directory)
        if as_json:
            print_json(made)
        else:
            compare_page.print_comparison(found, str(made["page"]))
