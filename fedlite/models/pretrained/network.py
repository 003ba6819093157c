"""The frozen network: its layers, what comes out of them, and what that costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fedlite.models.branched import macs_of

# Of networks that count positions from the padding token's number, as RoBERTa does.
_OWN_POSITIONS = "create_position_ids_from_input_ids"
# Attention that is always given its mask; what transformers registers it under.
_MASKED = "fedlite_masked"


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


def first_layers(network: nn.Module, count: int) -> nn.Module:
    """Return the network up to its layer `count`, from 1, whose modules it shares.

    What comes out of these layers is what comes out of them in the whole: one layer more is there,
    copied and frozen, as some networks normalise what their last one says.
    """
    name, layers = layers_of(network)
    if count >= len(layers):
        return network
    after = copy.deepcopy(layers[count]).requires_grad_(False)
    cut: nn.Module = nn.ModuleList([*layers[:count], after])
    for at in reversed(range(name.count(".") + 1)):
        holder, _, attribute = ".".join(name.split(".")[: at + 1]).rpartition(".")
        above = copy.copy(network.get_submodule(holder))
        # A shallow copy has its modules in the dictionary of the first one.
        above._modules = {**above._modules, attribute: cut}
        cut = above
    return cut


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


def hidden_states(network: Any, ids: Tensor, mask: Tensor, *, alike: bool) -> tuple[Tensor, ...]:
    """Return what comes out of the embeddings and of each layer, float32 [n, length, width].

    alike: see `always_masked`.
    """
    given = positions(network, mask)
    with always_masked(network, alike):
        found = network(input_ids=ids, attention_mask=mask, output_hidden_states=True, **given)
    states: tuple[Tensor, ...] = found.hidden_states
    return states


@contextmanager
def always_masked(network: Any, alike: bool) -> Iterator[None]:
    """Let attention be masked by one kernel, whether or not any text of the batch is padded.

    transformers leaves the mask out where no text is padded, and other kernels round otherwise: one
    short text would move the bits of all others beside it. alike: whether that matters here.
    """
    config = network.config
    if not alike or config._attn_implementation != "sdpa":
        yield
        return
    _register()
    config._attn_implementation = _MASKED
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if _MASKED not in AttentionInterface():
        AttentionInterface.register(_MASKED, sdpa_attention_forward)
        AttentionMaskInterface.register(_MASKED, _mask)


def _mask(*args: Any, **options: Any) -> Any:
    """Return the mask that attention takes, also where it hides nothing."""
    from transformers.masking_utils import sdpa_mask

    never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(*args, **(options | never))


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
