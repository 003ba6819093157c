"""Texts foreseen token by token by a pretrained decoder with adapters."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.data.bases import find
from fedlite.data.loading import check_causal, load_network
from fedlite.models.pretrained.adapters import adapt, factors, turns
from fedlite.models.pretrained.network import (
    always_masked,
    made_up_tokens,
    positions,
    read_tokens,
)

# Without gradients so many texts are answered at a time: each has a number for every word there is.
_BLOCK = 8


class Foresight(nn.Module):
    """A decoder that answers a text with how badly it foresaw it.

    Maps tokens [n, 2, length] to the mean negative log-likelihood of each text's tokens but the
    first, in nats, float32 [n, 1]; 0 for a text of one token.
    """

    # Records that are clipped in one pass.
    block = 8

    def __init__(self, network: Any, length: int, *, alternating: bool = False) -> None:
        """Keep the network; alternating: A and B of its adapters are trained in turns."""
        super().__init__()
        self.alternating = alternating
        self.network = network
        self.length = length
        self.trim = True

    def train(self, mode: bool = True) -> Foresight:
        """Leave the network as it is used: there is nothing in it that training would change."""
        super().train(mode)
        self.network.eval()
        return self

    def one_by_one(self) -> None:
        """Leave no column of a batch out; see `Branched.one_by_one`."""
        self.trim = False

    def standing(self) -> tuple[tuple[str, ...], ...]:
        """Return what stands still in each turn; see `Branched.standing`."""
        return turns(self) if self.alternating else ()

    def products(self) -> tuple[tuple[str, str], ...]:
        """Return B and A of each adapted module; see `Branched.products`."""
        return factors(self)

    def made_up(self, count: int) -> Tensor:
        """Return texts that nobody wrote, of full length."""
        return made_up_tokens(count, self.length)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the loss of each text; see the class."""
        tokens = tokens.long()
        if torch.is_grad_enabled():
            return self._losses(tokens)
        return torch.cat([self._losses(block) for block in torch.split(tokens, _BLOCK)])

    def _losses(self, tokens: Tensor) -> Tensor:
        ids, mask = read_tokens(tokens, self.network.config.vocab_size, trim=self.trim)
        given = positions(self.network, mask)
        with always_masked(self.network, alike=not self.trim):
            logits = self.network(input_ids=ids, attention_mask=mask, **given).logits
        nll = functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        counted = (mask[:, 1:] * mask[:, :-1]).to(nll.dtype)
        return ((nll * counted).sum(1) / counted.sum(1).clamp_min(1)).unsqueeze(1)


def lora_lm(
    shape: tuple[int, ...],
    classes: int,
    *,
    base: str = "smollm2",
    method: Literal["both", "frozen-a", "alternating", "sb"] = "both",
    rank: int = 8,
    alpha: float = 0.0,
    targets: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
) -> Foresight:
    """Build ``lora-lm``: a pretrained decoder that learns to foresee texts, by adapters alone.

    Args:
        shape: ``[2, length]``: token ids and which of them count.
        classes: 1: what is answered is the loss.
        base: the decoder: a name of the catalogue, or a folder.
        method: which part of the adapters is trained.
        rank: of the adapters, at least 1.
        alpha: the adapters' factor is alpha / rank; 0 is 2 rank.
        targets: modules that are adapted, by the last part of their names; none: the usual ones.
        layers: which layers are adapted, from 1; none: all.
    """
    if len(shape) != 2 or shape[0] != 2 or classes != 1:
        raise ValueError(
            f"model 'lora-lm' needs texts [2, length] and the task causal-lm; the data's shape is "
            f"{list(shape)} with {classes} answers; set task.name to causal-lm"
        )
    network = load_network(find(base, "model.options.base"), language=True)
    check_causal(network, base, "model.options.base")
    adapt(network, method, rank=rank, alpha=alpha, targets=targets, layers=layers)
    return Foresight(network, shape[1], alternating=method == "alternating")
