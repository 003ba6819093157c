"""`fedlite site model`: the released model of a run that a coordinator has delivered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients import final
from clients.runtime import runbook, seats, setup
from fedlite import plan as plans
from fedlite.deployment.journal import Journal
from fedlite.guard import policy as site_policy
from fedlite.guard.records import own_source
from fedlite.models.files import write_model
from fedlite.scenario import from_run_config, own_code


@dataclass(frozen=True)
class Written:
    """A model that was written. unit: what protected the updates that it is made of."""

    run: str
    scenario: str
    coordinator: str
    folder: Path
    parameters: int
    unit: str


def write(home: Path, named: str, out: Path) -> Written:
    """Write the model of a run as `model.safetensors` and `model.json` into the folder `out`.

    named: the run's id, or the name of its scenario where only one run delivered a model. Raises
    ValueError when there is no such run or no model, or `out` holds a model already.
    """
    if any((out / name).exists() for name in ("model.safetensors", "model.json")):
        raise ValueError(f"{out}: holds a model, which is never overwritten; name another folder")
    places = {
        folder.name: folder
        for seat in seats.every(home)
        for folder in sorted((seat / "state").glob("*"))
        if (folder / final.FILE).exists() or (folder / final.FILE).is_symlink()
    }
    told = {run["run"]: run for run in runbook.read(home) if run["settings"]}
    delivered = {run: told[run]["scenario"] for run in places if run in told}
    meant = [run for run, scenario in delivered.items() if named in (run, scenario)]
    if len(meant) != 1:
        known = ", ".join(f"{run} ({scenario})" for run, scenario in delivered.items()) or "none"
        raise ValueError(
            f"RUN: must be one that delivered its model to this site: {known}; got {named!r}. A "
            "run does where its scenario has federation.deliver = true, to sites that are on line "
            "at its end; else ask the coordinator"
        )
    (run,) = meant
    scenario = from_run_config(told[run]["settings"])
    if own := own_code(scenario):
        raise ValueError(
            f"{min(own)}: must be fedlite's own, or an installed package's, for a model to be "
            f"written here (rule: code that was sent runs in the sandbox only), got "
            f"{own[min(own)]!r}; ask the coordinator for model.safetensors and model.json"
        )
    policy = site_policy.load(home / setup.POLICY)
    chosen = policy.data_set(scenario.data.name)
    if chosen is None:
        raise ValueError(
            f"{home / setup.POLICY}: has no [data.{scenario.data.name}], from which the model's "
            "shape follows; put the table back"
        )
    source, _ = own_source(scenario, chosen, home)
    plan = plans.of(scenario, source.shape, source.classes)
    vector = final.read(places[run], plan.stored.size)
    out.mkdir(parents=True, exist_ok=True)
    # What is said of a table at the sites is what its scenario says, at the coordinator too.
    told_of = None if scenario.data.at_sites else source
    write_model(out, plan.scenario, plan.stored, vector, plan.model(), told_of)
    Journal(home / "audit").write("model", run=run, folder=str(out.absolute()))
    return Written(run, delivered[run], told[run]["coordinator"], out, plan.layout.size, plan.unit)
