"""Which columns of the operator's own table a plan reads, and which answer it learns.

Names only, as the header, `site.toml` and the plan have them: no value of a record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from fedlite.data import Source, find
from fedlite.guard.policy import DataSet
from fedlite.scenario import NUMERIC, Scenario
from fedlite.scenario.tabular import names


def reads(
    scenario: Scenario, chosen: DataSet, source: Source | None = None
) -> list[tuple[str, str]]:
    """Return columns and answer as titles and texts; nothing where the records are no table.

    source: the records as the plan reads them. Without it, as where code that nobody has approved
    would read them, only what plan and `site.toml` name is told. A question for figures names its
    columns by itself.
    """
    if scenario.statistics.bins or not find(chosen.source).table:
        return []
    features = source.features if source else names(scenario.data.columns)
    if scenario.data.text:
        read = f"the texts in {_quoted([scenario.data.text])}"
    elif features:
        read = _quoted(features)
    else:
        read = "every column but the answer and whose a record is"
        if drop := names(scenario.data.drop):
            read += f", and but {_quoted(drop)}"
    learnt = []
    if chosen.target:
        learnt.append(_quoted(names(chosen.target)))
    classes = source.labels if source else names(scenario.data.labels)
    if classes and scenario.task.name not in NUMERIC:
        learnt.append(f"tells apart {_quoted(classes)}")
    told = [("reads", read)]
    return [*told, ("learns", ": ".join(learnt))] if learnt else told


def _quoted(found: Iterable[str]) -> str:
    return ", ".join(json.dumps(name, ensure_ascii=False) for name in found)
