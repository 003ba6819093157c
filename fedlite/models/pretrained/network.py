"""The frozen network: a pretrained transformer from its folder, made safe to train beside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from fedlite.data.bases import Base
from fedlite.data.cache import locked
from fedlite.data.room import check_disk, check_memory
from fedlite.data.weights import CONFIG, WEIGHTS, check_folder, told
from fedlite.models.branched import macs_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of networks that count positions from the padding token's number, as RoBERTa does.
_OWN_POSITIONS = "create_position_ids_from_input_ids"
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


def layers_of(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of a transformer's layers: its longest list of modules.

    Raises ValueError where there is none.
    """
    found = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.ModuleList)]
    if not found:
        raise ValueError(
            "model.options.base: must be a transformer of layers, and has no list of them"
        )
    return max(found, key=lambda one: len(one[1]))


def check_layers(network: nn.Module, option: str, numbers: Sequence[int]) -> None:
    """Raise ValueError where `model.options.OPTION` numbers no layer, or one twice."""
    count = len(layers_of(network)[1])
    if any(not 1 <= number <= count for number in numbers) or len({*numbers}) < len(numbers):
        raise ValueError(
            f"model.options.{option}: must be from 1 to the {count} layers of the base, each once, "
            f"got {list(numbers)[: count + 1]}"
        )


def read_tokens(tokens: Tensor, vocabulary: int, *, trim: bool) -> tuple[Tensor, Tensor]:
    """Return token ids, int64 [n, length], and which of them count, int64 [n, length], 0 or 1.

    tokens: as a text data set has them, [n, 2, length]. trim: leave out the columns that count
    nowhere, which changes answers by rounding only; under record-level privacy a record's bits may
    not depend on others', and nothing is left out. A text without any token is its first one.
    """
    ids, mask = tokens[:, 0], (tokens[:, 1] > 0).long()
    mask[:, 0] |= mask.sum(1) == 0
    if trim:
        length = int(mask.any(0).nonzero().max()) + 1
        ids, mask = ids[:, :length], mask[:, :length]
    return ids.clamp(0, vocabulary - 1), mask


def hidden_states(network: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Return what comes out of the embeddings and of each layer, float32 [n, length, width]."""
    given = positions(network, mask)
    found = network(input_ids=ids, attention_mask=mask, output_hidden_states=True, **given)
    states: tuple[Tensor, ...] = found.hidden_states
    return states


def positions(network: Any, mask: Tensor) -> dict[str, Tensor]:
    """Return the places of the tokens that count, so that the side of the padding does not matter.

    Nothing for a network that finds them by itself, or takes none.
    """
    own = hasattr(getattr(network, "embeddings", None), _OWN_POSITIONS)
    if own or "position_ids" not in signature(network.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)}


def made_up_tokens(count: int, length: int) -> Tensor:
    """Return texts of other tokens each, int64 [count, 2, length], all of which count."""
    ids = 7 * torch.arange(count).unsqueeze(1) + torch.arange(length) + 1
    return torch.stack([ids, torch.ones_like(ids)], 1)


def work(network: nn.Module, early: int, length: int) -> tuple[int, int]:
    """Return the multiply-accumulates on one text of `length` tokens: of the first layers, of all.

    early: how many layers are the first ones.
    """
    tokens = made_up_tokens(1, length).to(next(network.parameters()).device)
    name, layers = layers_of(network)
    holder, _, attribute = name.rpartition(".")
    found = []
    for count in (early, len(layers)):
        setattr(network.get_submodule(holder), attribute, layers[:count])
        try:
            with torch.no_grad():
                found.append(macs_of(_Reading(network), tokens))
        finally:
            setattr(network.get_submodule(holder), attribute, layers)
    return found[0], found[1]


class _Reading(nn.Module):
    """A network that is given its tokens in one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Any:
        ids, mask = tokens.unbind(1)
        return self.network(input_ids=ids, attention_mask=mask)
