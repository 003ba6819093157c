"""Weights that a model begins with, from a file: somebody's pretrained ones, or another run's."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from fedlite.models.registry import Model

_SHOWN = 3


def load_start(model: Model, path: Path) -> None:
    """Copy the tensors of a safetensors file into the model's of the same names, in place.

    What the file lacks stays as it was built; under privacy it must be public: it is not covered.

    Raises ValueError when the file is none, or holds a tensor that the model does not have, or has
    in another shape.
    """
    try:
        given = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise ValueError(f"model.start: {path}: no such file; correct the path") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"model.start: {path}: must be a safetensors file ({error}); save the weights by "
            "safetensors.torch.save_model"
        ) from None
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    wrong = [
        f"{name} {list(tensor.shape)}"
        + (f" where the model has {list(own[name].shape)}" if name in own else "")
        for name, tensor in given.items()
        if name not in own or own[name].shape != tensor.shape
    ]
    if wrong or not given:
        raise ValueError(
            f"model.start: {path}: must hold tensors that model.name has, got "
            f"{', '.join(wrong[:_SHOWN]) or 'none'}{' and more' * (len(wrong) > _SHOWN)}; give the "
            f"weights of the same model ({', '.join(list(own)[:_SHOWN])}, ...)"
        )
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)
