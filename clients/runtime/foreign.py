"""Which settings of a scenario name code that is a site's own, and not fedlite's."""

from __future__ import annotations

from typing import Any

from fedlite import compression, objectives, tasks
from fedlite.data.text.cleaning import REDACTORS
from fedlite.models.registry import MODELS
from fedlite.registry import Registry
from fedlite.scenario import Scenario


def foreign_settings(scenario: Scenario) -> list[str]:
    """Return the settings, as `section.key`, that name a site's code which is not fedlite's.

    Nothing is imported or run. Raises ValueError for a name that is not known on this machine.
    """
    found = []
    named: list[tuple[str, str, Registry[Any]]] = [
        ("task.name", scenario.task.name, tasks.KNOWN),
        ("model.name", scenario.model.name, MODELS),
        ("training.objective", scenario.training.objective, objectives.KNOWN),
        ("uplink.compressor", scenario.uplink.compressor, compression.KNOWN),
        ("downlink.compressor", scenario.downlink.compressor, compression.KNOWN),
    ]
    if scenario.data.redactor:
        named.append(("data.redactor", scenario.data.redactor, REDACTORS))
    for key, name, registry in named:
        try:
            registry.check(name)
        except ValueError as error:
            raise ValueError(f"{key}: {str(error).partition(': ')[2]}") from None
        if name not in registry.house:
            found.append(key)
    return found
