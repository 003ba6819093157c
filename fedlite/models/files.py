"""A trained model as files: named tensors, and how to build and use it."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.numpy

from fedlite.models.branched import Branched
from fedlite.parameters import Layout, Vector
from fedlite.scenario import Scenario
from fedlite.storage import write_atomic


def write_model(
    directory: Path, scenario: Scenario, layout: Layout, vector: Vector, model: Branched
) -> None:
    """Write `model.safetensors` (named tensors) and `model.json` (how to build and use it)."""
    tensors, offset = {}, 0
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        size = Layout((name,), (shape,)).size
        tensors[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    write_atomic(directory / "model.safetensors", safetensors.numpy.save(tensors))
    description = {
        "name": scenario.model.name,
        "seed": scenario.federation.seed,
        "shape": list(model.shape),
        "classes": model.classes,
        "layout": layout.digest.hex(),
        "parameters": layout.size,
        "costs": model.costs(),
    }
    text = json.dumps(description, indent=2, sort_keys=True)
    write_atomic(directory / "model.json", text.encode() + b"\n")
