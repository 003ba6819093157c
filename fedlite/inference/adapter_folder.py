"""A run's adapters as a folder that `peft.PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fedlite.data.bases import Base, find
from fedlite.evaluation import Trained
from fedlite.inference.card import card
from fedlite.models.pretrained import Classifier
from fedlite.models.pretrained.adapters import adapters_of, merged_weight, product, settings_of
from fedlite.settings import read_options
from fedlite.storage import write_atomic

ADAPTER, CONFIG, HEADS = "adapter_model.safetensors", "adapter_config.json", "heads.safetensors"
MERGED = "merged"


def write_adapters(trained: Trained, folder: Path, *, merged: bool = False) -> tuple[Path, ...]:
    """Write a run's adapters and heads to `folder`, and return the files.

    An adapter's `B R A` is written as one pair of matrices, so that every method gives the same
    kind of folder. The heads read the pooled states of layers, which no class of transformers does:
    they are beside it, and the card says how they are used. merged: write the base with the
    adapters added to its weights too, as a transformers folder of its own.

    Raises ValueError when the model is no pretrained one, or the folder holds something already.
    """
    model = trained.model
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{trained.directory}: must be a run of the model lora, got "
            f"{trained.scenario.model.name!r}; its model.safetensors holds all that was trained"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: must be empty or not be there yet; name another folder")
    base = find(str(read_options(trained.scenario.model.options).get("base", "minilm")))
    files = [_write(folder / HEADS, save(_heads(model)))]
    adapted = adapters_of(model.features.network)
    if adapted:
        files += _adapters(adapted, folder, base)
    files.append(_write(folder / "README.md", card(trained, model, base).encode()))
    if merged:
        files += _merged(model, folder / MERGED, base)
    return tuple(files)


def _heads(model: Classifier) -> dict[str, Tensor]:
    parts = {"exit": model.exit, "deep": model.tail}
    return {
        f"{name}.{key}": (part[1].factor * value.detach()).contiguous()  # type: ignore[index]
        for name, part in parts.items()
        for key, value in part[1].linear.state_dict().items()  # type: ignore[index]
    }


def _adapters(adapted: list[tuple[str, Any]], folder: Path, base: Base) -> list[Path]:
    tensors: dict[str, Tensor] = {}
    for name, module in adapted:
        down, up = product(module)
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.contiguous()
    told = settings_of(adapted) | {"base_model_name_or_path": Path(base.name).name}
    text = json.dumps(told, indent=2, sort_keys=True)
    return [
        _write(folder / ADAPTER, save(tensors, {"format": "pt"})),
        _write(folder / CONFIG, text.encode()),
    ]


def _merged(model: Classifier, folder: Path, base: Base) -> list[Path]:
    """Write the network with `W + s B A` in the place of W, beside the base's other files."""
    network = model.features.network
    changed = {f"{name}.weight": merged_weight(module) for name, module in adapters_of(network)}
    tensors = {}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if ".lora_" in key:
                continue
            plain = key.replace(".base_layer.", ".")
            tensors[plain] = changed.get(plain, value).detach().clone().contiguous()
    files = [_write(folder / "model.safetensors", save(tensors, {"format": "pt"}))]
    for source in sorted(base.folder().glob("*.json")):
        files.append(_write(folder / source.name, source.read_bytes()))
    return files


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return path
