"""Tasks by name: what a federation learns to answer; one file a task, one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlite.registry import Registry
from fedlite.tasks.classification import Classification
from fedlite.tasks.interface import Figures, Loss, Outputs, Task, known
from fedlite.tasks.joint import joint, loss_of
from fedlite.tasks.language import Language
from fedlite.tasks.multilabel import MultiLabel
from fedlite.tasks.regression import Regression

TASKS: dict[str, type[Task]] = {
    "causal-lm": Language,
    "classification": Classification,
    "multilabel": MultiLabel,
    "regression": Regression,
}
KNOWN = Registry("task.name", "fedlite.tasks", TASKS, "task.options", "(**options)")


def make(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return the task called `name`, which may be one of your own (`fedlite.registry`).

    Raises ValueError when there is none, or it does not take the options.

    >>> make("regression").main
    'r2'
    """
    task: object = KNOWN.make(name, options=options or {})
    if not isinstance(task, Task):
        raise ValueError(
            f"task.name: {name!r} must make a fedlite.tasks.Task, got {task!r}; name a class "
            "derived from it"
        )
    return task


__all__ = [
    "KNOWN",
    "TASKS",
    "Figures",
    "Loss",
    "Outputs",
    "Task",
    "joint",
    "known",
    "loss_of",
    "make",
]
