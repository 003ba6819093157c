"""A trained model as files: named tensors, and how to build and use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from fedlite.data.dataset import Source
from fedlite.data.usage import usage
from fedlite.models.registry import Model
from fedlite.parameters import Layout, Vector
from fedlite.registry import label
from fedlite.scenario import Scenario
from fedlite.settings import read_options
from fedlite.storage import write_atomic


def write_model(
    directory: Path,
    scenario: Scenario,
    layout: Layout,
    vector: Vector,
    model: Model,
    source: Source | None = None,
) -> None:
    """Write `model.safetensors` (named tensors) and `model.json` (how to build and use it).

    source: what it was trained on, None where that is at sites only; see `fedlite.data.usage`.
    """
    tensors, offset = {}, 0
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        size = Layout((name,), (shape,)).size
        tensors[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    write_atomic(directory / "model.safetensors", safetensors.numpy.save(tensors))
    description = {
        "name": label(scenario.model.name),
        "options": read_options(scenario.model.options),
        "task": scenario.task.name,
        "like": scenario.task.reads,
        "branches": list(model.branches),
        "seed": scenario.federation.seed,
        "shape": list(model.shape),
        "classes": model.classes,
        "layout": layout.digest.hex(),
        "parameters": layout.size,
        "costs": model.costs(),
        **usage(scenario, source),
    }
    text = json.dumps(description, indent=2, sort_keys=True)
    write_atomic(directory / "model.json", text.encode() + b"\n")


def read_vector(directory: Path, layout: Layout) -> Vector:
    """Return the trained model that `write_model` wrote for a model of this layout, float32 [n].

    Raises ValueError when there is none, the file is damaged, or it holds another model.
    """
    path = directory / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the directory of a run that has finished")
    try:
        tensors = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is damaged ({error}); restore it from a copy") from None
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise ValueError(
            f"{path}: must hold the {layout.size} parameters of this model, and holds others; give "
            "the scenario that it was trained by"
        )
    vector: Vector = np.concatenate([tensors[name].ravel() for name in layout.names])
    return vector.astype(np.float32)
