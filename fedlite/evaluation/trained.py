"""The model of a run, ready to answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.data.text.tokens import digest_of as tokenizer_digest
from fedlite.data.usage import reading_of, texts_of
from fedlite.models import Model
from fedlite.models.files import read_vector
from fedlite.registry import digest_of, file_of
from fedlite.scenario import Scenario, from_dict, load, own_code
from fedlite.scenario.tabular import Columns
from fedlite.scenario.texts import Texts
from fedlite.tasks import TASKS, Task

_CHUNK = 4096
_NEEDED = ("name", "options", "task", "seed", "shape", "classes", "labels", "scaling")


@dataclass(frozen=True)
class Trained:
    """A released model and what `model.json` says of it.

    labels: the classes, labels or targets that it answers, in order. scale: float64 [2, width],
    what the answers -1 and 1 of a regression stand for, else None. reading: how a table becomes
    its features; None for records of another kind. scaling: one of `fedlite.data.usage.HOW`. texts:
    how a text becomes what the model reads; None where records are no texts.
    """

    directory: Path
    scenario: Scenario
    model: Model
    task: Task
    labels: tuple[str, ...]
    scale: NDArray[np.float64] | None
    reading: Columns | None
    scaling: str
    target: str
    texts: Texts | None = None

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that answer, the shallowest first."""
        return tuple(self.model.branches)

    def answers(self, data: Dataset) -> dict[str, NDArray[np.float64]]:
        """Return each branch's answers, float64 [n, width], of records scaled as in training."""
        return answers_of(self.model, self.task, data)


def answers_of(
    model: Model, task: Task, data: Dataset, at_once: int = _CHUNK
) -> dict[str, NDArray[np.float64]]:
    """Return the answers of each of a model's branches, float64 [n, width].

    data: scaled as in training. at_once: so many records go through the model together, at least 1.
    """
    inputs, _ = task.tensors(data, torch.device("cpu"))
    outputs: dict[str, list[Tensor]] = {branch: [] for branch in model.branches}
    with torch.no_grad():
        for start in range(0, max(1, len(inputs)), at_once):
            answers = model(model.prepare(inputs[start : start + at_once]))
            for kept, found in zip(outputs.values(), answers, strict=True):
                kept.append(found)
    return {branch: torch.cat(kept).double().numpy() for branch, kept in outputs.items()}


def open_model(directory: Path) -> Trained:
    """Return the released model in a run's directory, or in a folder of `fedlite site model`.

    Where the run's scenario names a file for its model, that file is run: open only models of runs
    that you trust. Raises ValueError when there is none, it is damaged, or such a file is not what
    the run was trained with; it is not run then.
    """
    path = directory / "model.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give the directory of a run that has finished, as "
            "runs/quickstart"
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        lacks = [key for key in _NEEDED if key not in told]
        if lacks:
            raise ValueError(f"has no {lacks[0]!r}")
        scale = np.array(told["scale"], np.float64) if "scale" in told else None
        shape, classes = tuple(map(int, told["shape"])), int(told["classes"])
        reading, texts = reading_of(told), texts_of(told)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: is damaged or of an earlier release ({error}); run the scenario again"
        ) from None
    scenario = _scenario(directory, told)
    _check_code(directory, scenario)
    read = _read_alike(*texts, scenario, path) if texts else None
    planned = plans.of(scenario, shape, classes)
    model = planned.model()
    planned.load(model, read_vector(directory, planned.stored))
    labels = tuple(map(str, told["labels"] or range(classes)))
    return Trained(
        directory,
        scenario,
        model.eval(),
        planned.task,
        labels,
        scale,
        reading,
        told["scaling"],
        str(told.get("target", "")),
        read,
    )


def _like(told: Mapping[str, Any]) -> str:
    """Return `task.like`, which only a task of one's own has."""
    return "" if told["task"] in TASKS else str(told.get("like", ""))


def _read_alike(texts: Texts, digest: str, scenario: Scenario, path: Path) -> Texts:
    """Return how the run read its texts, by a tokenizer that is here and is the run's own."""
    kept = scenario.data
    # Folders and files of one's own are named in full by the scenario alone.
    if Path(kept.tokenizer).name == texts.tokenizer:
        texts = replace(texts, tokenizer=kept.tokenizer)
    if kept.redactor:
        texts = replace(texts, redactor=kept.redactor)
    if (found := tokenizer_digest(texts.tokenizer)) != digest:
        raise ValueError(
            f"{path}: the tokenizer {texts.tokenizer} must be the one that the model was trained "
            f"with, sha256 {digest}, got {found} (rule: another's tokens mean other words); put "
            "that tokenizer there"
        )
    return texts


def _scenario(directory: Path, told: Mapping[str, Any]) -> Scenario:
    """Return the run's scenario; of a delivered model as much as builds it."""
    if (directory / "scenario.toml").is_file():
        return load(directory / "scenario.toml")
    return from_dict(
        {
            "federation": {"seed": told["seed"]},
            "model": {"name": told["name"], "options": told["options"]},
            "task": {"name": told["task"], "like": _like(told)},
        }
    )


def _check_code(directory: Path, scenario: Scenario) -> None:
    """Hold the files that build the model against the digests that the run has kept of its own."""
    kept, files = directory / "checkpoint" / "code.sha256", own_code(scenario)
    if not kept.is_file():
        return
    for line in kept.read_text(encoding="ascii").splitlines():
        key, _, digest = line.partition(" ")
        file = file_of(files.get(key, ""))
        if key not in ("model.name", "task.name") or file is None:
            continue
        if not file.is_file() or digest_of(file) != digest:
            raise ValueError(
                f"{key}: {file}: must be, with what it imports, what the run was trained with "
                "(rule: weights are those of one model, and another may take them and answer "
                "otherwise), and has changed; put it back, or run the scenario again"
            )
