"""Scenarios loaded, runs started and taken up again; nothing is printed unless it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.api.run import Run
from fedlite.registry import name_of
from fedlite.reporting.notebook import in_notebook
from fedlite.rooms import open_rooms
from fedlite.scenario import Scenario, ScenarioError, from_dict, overridden, read
from fedlite.settings import Value

if TYPE_CHECKING:
    from fedlite.audit import Audit

Given = Scenario | str | Path | Mapping[str, Any]
# A value of a key: a table of options and a list in one, too.
Setting = Value | Sequence[Value] | Mapping[str, Any]
# A name, or a function or class of one's own (`registry.name_of`).
Named = str | Callable[..., Any] | None
_KEYS = {"model": "model.name", "data": "data.name", "strategy": "federation.strategy"}


def load_scenario(
    given: str | Path | Mapping[str, Any] = "quickstart",
    *,
    set: Mapping[str, Setting] | None = None,
    model: Named = None,
    data: Named = None,
    strategy: Named = None,
) -> Scenario:
    """Return a scenario by its name, from a TOML file, or from nested tables.

    set: keys to replace, dotted, as `{"federation.rounds": 5, "model.options.hidden": 64}`. model,
    data, strategy: by name, or a function or class that stands in a file: the same as its key with
    `file.py:function`. What depends on the records or on code is checked when a run begins.

    Raises ScenarioError, with a line for each wrong key.
    """
    return from_dict(tables_of(given, changes(set, model, data, strategy)))


def changes(
    set: Mapping[str, Setting] | None, model: Named, data: Named, strategy: Named
) -> dict[str, Setting]:
    """Return all keys to replace, those given by name or function under their keys."""
    found: dict[str, Setting] = dict(set or {})
    named = {"model": model, "data": data, "strategy": strategy}
    for argument, value in named.items():
        if value is None:
            continue
        if _KEYS[argument] in found:
            raise ScenarioError(
                f"{argument}: must not be given beside set[{_KEYS[argument]!r}], got both; take "
                "one away"
            )
        found[_KEYS[argument]] = value if isinstance(value, str) else name_of(value)
    return found


def tables_of(
    given: str | Path | Mapping[str, Any], changed: Mapping[str, Setting]
) -> dict[str, Any]:
    """Return a scenario's tables with these keys replaced, before anything is checked."""
    if isinstance(given, Mapping):
        tables: Mapping[str, Any] = given
    else:
        open_rooms()
        from simulations.run import scenario_path

        tables = read(scenario_path(str(given)))
    return overridden(tables, [f"{key}={text(value)}" for key, value in changed.items()])


def text(value: Setting) -> str:
    """Return a value as `--set` takes it; options and lists as JSON.

    >>> text(True), text(0.5), text({"hidden": 64, "bias": False})
    ('true', '0.5', '{"hidden": 64, "bias": false}')
    """
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(dict(value) if isinstance(value, Mapping) else value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def simulate(
    scenario: Given = "quickstart",
    out: str | Path | None = None,
    *,
    set: Mapping[str, Setting] | None = None,
    model: Named = None,
    data: Named = None,
    strategy: Named = None,
    engine: str = "auto",
    progress: bool | None = None,
) -> Run:
    """Simulate a federation on this machine and return its run.

    scenario: one that `load_scenario` takes or has returned. out: its directory, which must not
    hold anything (default: `runs/NAME`). set, model, data, strategy: as for `load_scenario`, of a
    scenario that is not loaded yet. engine: auto, serial, pool or ray; a script that is not guarded
    by `if __name__ == "__main__"` needs serial, as the workers of a pool import it again. progress:
    whether each round is told on standard error; None: in a notebook only, where it is one line.

    Raises ScenarioError before anything starts, ValueError, OSError or RuntimeError afterwards,
    each with a text for a person.
    """
    changed = changes(set, model, data, strategy)
    if not isinstance(scenario, Scenario):
        scenario = from_dict(tables_of(scenario, changed))
    elif changed:
        raise ScenarioError(
            "set, model, data, strategy: must be given to load_scenario where the scenario has "
            "been loaded already (rule: what it left open was settled there), got "
            f"{', '.join(sorted(changed))}"
        )
    open_rooms()
    from server.directories import free_directory, hold
    from simulations import run

    run.check_engine(engine)
    directory = Path(out) if out else free_directory(Path("runs"), scenario.federation.name)
    with hold(directory, fresh=True):
        run.simulate(scenario, directory, engine=engine, quiet=not shown(progress))
    return Run(directory.absolute())


def resume(directory: str | Path, *, engine: str = "auto", progress: bool | None = None) -> Run:
    """Go on with an interrupted run and return it; raises as `simulate` does."""
    open_rooms()
    from server.directories import hold
    from simulations import run

    directory = Path(directory)
    run.resume_scenario(directory)
    with hold(directory, fresh=False):
        scenario = run.resume_scenario(directory)
        run.simulate(scenario, directory, engine=engine, quiet=not shown(progress))
    return Run(directory.absolute())


def shown(progress: bool | None) -> bool:
    """Return whether progress is told: in a notebook, where nobody said."""
    return in_notebook() if progress is None else progress


def audit_ledgers(*paths: str | Path) -> Audit:
    """Recompute every epsilon from ledgers, witness files or run directories, and find tampering.

    `audit.clean` tells whether everything was checked and nothing was found.
    """
    from fedlite.audit import audit

    return audit([Path(path) for path in paths])
