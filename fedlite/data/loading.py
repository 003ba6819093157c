"""The network of a base model, from its folder: frozen, whole, nothing in it random."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_model
from torch import nn

from fedlite.data.bases import Base
from fedlite.data.cache import locked
from fedlite.data.room import check_disk, check_memory
from fedlite.data.weights import CONFIG, WEIGHTS, check_folder, told

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INSTALL = 'pip install "fedlite[lora]"'


def load_network(base: Base, *, language: bool = False) -> PreTrainedModel:
    """Return the network of a base, frozen, in float32, nothing in it random.

    Its weights stay in the file, mapped into memory: however many models and processes of a machine
    use a base, it is there once. language: with what foresees the next token on top.

    Raises ValueError when transformers is not installed, the base's folder holds none of its
    models or a part of one, or there is no room for it.
    """
    folder = base.folder()
    try:
        import peft  # noqa: F401 - adapters need it later
        import transformers
    except ImportError as error:
        raise ValueError(
            f"model: a pretrained base needs transformers and peft ({error}); {_INSTALL}"
        ) from None
    kind = transformers.AutoModelForCausalLM if language else transformers.AutoModel
    with _quiet(transformers):
        try:
            if base.weights.endswith(".gguf"):
                folder = _unpacked(base, folder, transformers)
            check_memory(4 * check_folder(folder), f"model.options.base: {base.name}")
            # No pickle, no code of the folder's, nothing from a network.
            loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # a folder may make a library raise whatever it has
            raise _unloadable(folder, error) from None
    # What was read is what was held against the pins, and nothing that came in between.
    base.folder()
    network, info = loaded
    _complete(network, info["missing_keys"], folder, language=language)
    network.requires_grad_(False)
    _settle(network)
    return network


def _unloadable(folder: Path, error: Exception) -> ValueError:
    """Return what to say where a library could not load a folder."""
    said = (str(error).splitlines() or [""])[0]
    if said.startswith("model.options.base"):
        return ValueError(said)
    if isinstance(error, ImportError):
        return ValueError(
            f"model.options.base: {folder}: needs another package ({said}); {_INSTALL}"
        )
    if "auto_map" in told(folder / CONFIG) and "custom code" in said:
        return ValueError(
            f"model.options.base: {folder}: must be a model that transformers knows (rule: code of "
            "a model's folder is never run), and its config.json names code in auto_map; take "
            "another base"
        )
    if "ignore_mismatched_sizes" in said:
        said = "the sizes that config.json names are not those of the weights"
    return ValueError(
        f"model.options.base: {folder}: must hold config.json and model.safetensors of a "
        f"transformers model, and cannot be read: {type(error).__name__}: {said}"
    )


def _complete(network: nn.Module, missing: set[str], folder: Path, *, language: bool) -> None:
    """Raise ValueError where weights are missing, which would be random, or are no numbers.

    What pools the first token is left out by many files, and nothing here reads it: it is 0.
    """
    lacks = sorted(name for name in missing if not name.startswith("pooler."))
    if lacks:
        mend = "take one that foresees tokens" if language else "save the whole model"
        raise ValueError(
            f"model.options.base: {folder / WEIGHTS}: must hold all weights of the model (rule: "
            f"what is missing would be random), lacks {len(lacks)}, as {lacks[0]!r}; {mend}"
        )
    with torch.no_grad():
        for name in missing:
            network.get_parameter(name).zero_()
        for name, parameter in network.named_parameters():
            if not torch.isfinite(parameter.sum()):
                raise ValueError(
                    f"model.options.base: {folder / WEIGHTS}: {name!r}: must be finite numbers, "
                    "and is not; fetch it again"
                )


def _unpacked(base: Base, folder: Path, transformers: Any) -> Path:
    """Return a folder beside the base's file of 4-bit weights that holds them as float32.

    Written once: whole, or not at all.
    """
    place = folder / f"float32-{base.digest[:16]}"
    if place.is_dir():
        # Where approved code runs nothing may be written, no lock either.
        return place
    with locked(folder):
        if not place.is_dir():
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            check_disk(folder, base.unpacked, f"the weights of {base.name} as float32")
            check_memory(base.unpacked, f"model.options.base: {base.name}")
            network = transformers.AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=base.weights, local_files_only=True, dtype=torch.float32
            )
            # It is no longer what transformers takes for quantized, and would not save.
            vars(network.config).pop("quantization_config", None)
            part.mkdir()
            network.config.save_pretrained(part)
            save_model(network, str(part / WEIGHTS), metadata={"format": "pt"})
            part.rename(place)
    return place


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from telling of its own progress."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _settle(network: nn.Module) -> None:
    """Take what is random out: a record's gradient must be the same whenever it is taken."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def check_causal(network: Any, base: str, key: str) -> None:
    """Raise ValueError where what comes later changes how a token is foreseen: it was seen.

    key: the setting that names the base.
    """
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % network.config.vocab_size
    with torch.no_grad():
        one, other = network(input_ids=ids).logits[:, :-1]
    if not torch.allclose(one, other, rtol=1e-5, atol=1e-5):
        raise ValueError(
            f"{key}: must be a decoder (rule: a token is foreseen from those before it), and "
            f"{base} sees those behind it; take one such as smollm2"
        )
