"""fedlite from Python: what the commands do, as functions; `import fedlite` offers them by name.

>>> import fedlite
>>> scenario = fedlite.load_scenario("quickstart", {"federation.rounds": 5})
>>> scenario.federation.rounds, scenario.privacy.epsilon
(5, 3.0)

`run = fedlite.simulate(scenario)` then trains it, and `run.model()` is what it trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.rooms import open_rooms
from fedlite.scenario import Scenario, ScenarioError, from_dict, load
from fedlite.settings import Value

if TYPE_CHECKING:
    from fedlite.audit import Audit
    from fedlite.models import Model
    from fedlite.reporting.record import RoundRecord


@dataclass(frozen=True)
class Run:
    """A finished run, by its directory."""

    directory: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; raises ValueError when the run has not finished."""
        from fedlite.reporting.record import read_summary

        return read_summary(self.directory)

    @cached_property
    def rounds(self) -> list[RoundRecord]:
        """The record of every round, oldest first."""
        from fedlite.reporting.record import read_rounds

        return read_rounds(self.directory)

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario, with everything settled that was left open."""
        return load(self.directory / "scenario.toml")

    def model(self) -> Model:
        """Return the released model, in evaluation mode.

        It takes float32 [b, *shape] through `model.prepare` and answers with a tuple of the answers
        of its branches, the deep one last, each float32 [b, classes]. Where the run's scenario
        names a file for its model, that file is run: ask only for models of runs that you trust.
        """
        from fedlite import plan
        from fedlite.models.files import read_vector

        told = json.loads((self.directory / "model.json").read_text(encoding="utf-8"))
        planned = plan.of(self.scenario, tuple(told["shape"]), int(told["classes"]))
        model = planned.model()
        planned.load(model, read_vector(self.directory, planned.stored))
        return model.eval()

    def audit(self) -> Audit:
        """Check the run's ledgers from its files alone; see `audit_ledgers`."""
        return audit_ledgers(self.directory)


def load_scenario(
    given: str | Path | Mapping[str, Any] = "quickstart",
    settings: Mapping[str, Value] | None = None,
) -> Scenario:
    """Return a scenario by its name, from a TOML file, or from nested tables.

    settings: keys to replace, dotted, as `{"federation.rounds": 5}`.

    Raises ScenarioError, with a line for each wrong key.
    """
    changed = [f"{key}={_text(value)}" for key, value in (settings or {}).items()]
    if isinstance(given, Mapping):
        tables = {name: dict(table) for name, table in given.items()}
        for key, value in (settings or {}).items():
            section, _, name = key.partition(".")
            tables.setdefault(section, {})[name] = value
        return from_dict(tables)
    open_rooms()
    from simulations.run import scenario_path

    return load(scenario_path(str(given)), changed)


def simulate(
    scenario: Scenario | str | Path | Mapping[str, Any] = "quickstart",
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Value] | None = None,
    engine: str = "auto",
    quiet: bool = False,
) -> Run:
    """Simulate a federation on this machine and return its run.

    scenario: one that `load_scenario` takes or has returned. out: its directory, which must not
    hold anything (default: `runs/NAME`). settings: keys to replace in one that is not loaded yet.
    engine: auto, serial, pool or ray; a script that is not guarded by `if __name__ == "__main__"`
    needs serial, as the workers of a pool import it again. quiet: print no progress.

    Raises ScenarioError before anything starts, ValueError, OSError or RuntimeError afterwards,
    each with a text for a person.
    """
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario, settings)
    elif settings:
        raise ScenarioError(
            "settings: must be given to load_scenario where the scenario has been loaded already "
            "(rule: what it left open was settled there), got "
            f"{', '.join(sorted(settings))}"
        )
    open_rooms()
    from server.directories import free_directory, hold
    from simulations import run

    run.check_engine(engine)
    directory = Path(out) if out else free_directory(Path("runs"), scenario.federation.name)
    with hold(directory, fresh=True):
        run.simulate(scenario, directory, engine=engine, quiet=quiet)
    return Run(directory.absolute())


def resume(directory: str | Path, *, engine: str = "auto", quiet: bool = False) -> Run:
    """Go on with an interrupted run and return it; raises as `simulate` does."""
    open_rooms()
    from server.directories import hold
    from simulations import run

    directory = Path(directory)
    run.resume_scenario(directory)
    with hold(directory, fresh=False):
        run.simulate(run.resume_scenario(directory), directory, engine=engine, quiet=quiet)
    return Run(directory.absolute())


def audit_ledgers(*paths: str | Path) -> Audit:
    """Recompute every epsilon from ledgers, witness files or run directories, and find tampering.

    `audit.clean` tells whether everything was checked and nothing was found.
    """
    from fedlite.audit import audit

    return audit([Path(path) for path in paths])


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
