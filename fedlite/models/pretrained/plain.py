"""A BERT encoder as plain layers, cut behind the layer that its early head reads.

For what is not trained any more: adapters are added to the weights, each matrix is a `nn.Linear`,
and what an early text does not need is in the tail. What the stem hands on is one tensor, as of any
other model: hidden values [n, k + length, width + 1]. Its last column is the mask; its first k rows
are the pooled states of layers below the cut that the deep head reads. A text may be of any length.

The layers are those of Devlin et al. 2019, "BERT", as transformers computes them: post-norm, GELU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.models.branched import Branched, macs_of
from fedlite.models.pretrained.adapters import merged_weight
from fedlite.models.pretrained.network import made_up_tokens, read_tokens

# So much less than any score that its share is 0.
_HIDDEN = 1e9


class Layer(nn.Module):
    """One layer: attention over the tokens that count, then two matrices with a GELU between.

    of: a layer of transformers' BERT, whose parameters it shares where no adapter is in them.
    """

    def __init__(self, of: Any) -> None:
        """Take the matrices over."""
        super().__init__()
        seen, said = of.attention.self, of.attention.output
        self.heads = int(seen.num_attention_heads)
        self.query, self.key, self.value = map(_linear, (seen.query, seen.key, seen.value))
        self.out, self.seen = _linear(said.dense), said.LayerNorm
        self.up, self.down = _linear(of.intermediate.dense), _linear(of.output.dense)
        self.said = of.output.LayerNorm

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map states [n, length, width] to others; mask: float32 [n, length], 1 where it counts."""
        query, key, value = (self._split(of(x)) for of in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        shares = torch.softmax(scores + (mask - 1)[:, None, None] * _HIDDEN, 3)
        found = (shares @ value).transpose(1, 2).flatten(2)
        x = self.seen(x + self.out(found))
        after: Tensor = self.said(x + self.down(functional.gelu(self.up(x))))
        return after

    def _split(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        return x.reshape(-1, length, self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Stem(nn.Module):
    """Tokens int64 [n, 2, length] to hidden values: the embedding and the first layers.

    embeddings: those of transformers' BERT. lower: of which layers, from 1, the deep head reads the
    pooled states though they lie below the last one here.
    """

    def __init__(self, embeddings: Any, layers: Sequence[Layer], lower: Sequence[int]) -> None:
        """Take the tables over; all of a text is of the first kind of token."""
        super().__init__()
        self.words: nn.Module = embeddings.word_embeddings
        self.vocabulary = len(embeddings.word_embeddings.weight)
        kinds, places = embeddings.token_type_embeddings, embeddings.position_embeddings
        self.places = nn.Parameter(places.weight.detach() + kinds.weight.detach()[0], False)
        self.norm = embeddings.LayerNorm
        self.layers = nn.ModuleList(layers)
        self.lower = frozenset(lower)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return hidden values; see the module."""
        ids, counts = read_tokens(tokens, self.vocabulary, trim=False)
        places = (counts.cumsum(1) - 1).clamp_min(0)
        mask = counts.float()
        x = self.norm(self.words(ids) + self.places[places])
        front = []
        for at, layer in enumerate(self.layers, 1):
            x = layer(x, mask)
            if at in self.lower:
                front.append(mean(x, mask))
        hidden = torch.cat([x, mask.unsqueeze(2)], 2)
        if not front:
            return hidden
        return torch.cat([functional.pad(torch.stack(front, 1), (0, 1)), hidden], 1)


class Exit(nn.Module):
    """Hidden values to the early answer. skip: how many rows stand before those of the tokens."""

    def __init__(self, skip: int, head: nn.Module) -> None:
        """Keep the head."""
        super().__init__()
        self.skip, self.head = skip, head

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        _, x, mask = parts(hidden, self.skip)
        found: Tensor = self.head(mean(x, mask))
        return found


class Tail(nn.Module):
    """Hidden values to the deep answer: the layers above the cut.

    cut: behind which layer, from 1. lower: as of `Stem`. read: the layers whose pooled states the
    head reads, side by side in that order.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        cut: int,
        lower: Sequence[int],
        read: Sequence[int],
        head: nn.Module,
    ) -> None:
        """Keep layers and head."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.cut, self.lower, self.read, self.head = cut, sorted(lower), tuple(read), head

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        front, x, mask = parts(hidden, len(self.lower))
        known = {number: front[:, at] for at, number in enumerate(self.lower)}
        known[self.cut] = mean(x, mask)
        for number, layer in enumerate(self.layers, self.cut + 1):
            x = layer(x, mask)
            known[number] = mean(x, mask)
        found: Tensor = self.head(torch.cat([known[number] for number in self.read], 1))
        return found


class Encoder(Branched):
    """An encoder of such parts: a model of tokens, int64 [n, 2, length]."""

    def made_up(self, count: int) -> Tensor:
        """Return texts that nobody wrote, of full length."""
        return made_up_tokens(count, self.shape[1])

    def costs(self) -> dict[str, dict[str, int]]:
        """Count all parameters, and work per text of full length; see `Branched.costs`."""
        record = self.made_up(1)
        with torch.no_grad():
            hidden = self.stem(record)
        given = {"stem": record, "exit": hidden, "tail": hidden}
        found = {}
        for part, reads in given.items():
            of = getattr(self, part)
            with torch.no_grad():
                macs = macs_of(of, reads)
            found[part] = {"parameters": sum(p.numel() for p in of.parameters()), "macs": macs}
        return found


def parts(hidden: Tensor, skip: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of hidden values the pooled states [n, skip, width], the tokens', and their mask."""
    return hidden[:, :skip, :-1], hidden[:, skip:, :-1], hidden[:, skip:, -1]


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the states that count, normalised by itself: [n, width]."""
    weights = mask.unsqueeze(2)
    found = (x * weights).sum(1) / weights.sum(1)
    return functional.layer_norm(found, found.shape[1:])


def plain(
    network: Any,
    cut: int,
    read: Sequence[int],
    heads: tuple[nn.Module, nn.Module],
    *,
    shape: tuple[int, ...],
    classes: int,
) -> Encoder:
    """Return a BERT encoder with an early and a deep head as a model of tokens [n, 2, length].

    network: transformers' `BertModel`, perhaps with adapters in it. cut: the layer, from 1, that
    the early head reads. read: those that the deep head reads. heads: from pooled states to logits.

    Raises ValueError for a network of another kind.
    """
    config = network.config
    if config.model_type != "bert" or config.hidden_act != "gelu" or config.is_decoder:
        raise ValueError(
            f"model.options.base: must be an encoder of the kind bert, with GELU, to be cut in two "
            f"(rule: its layers are written out one by one), got {config.model_type!r}; export its "
            "adapters without --target"
        )
    layers = [Layer(one) for one in network.encoder.layer[: max(cut, *read)]]
    lower = [number for number in read if number < cut]
    made = Encoder(
        Stem(network.embeddings, layers[:cut], lower),
        Exit(len(lower), heads[0]),
        Tail(layers[cut:], cut, lower, read, heads[1]),
        shape=shape,
        classes=classes,
    )
    return made.eval()


def _linear(of: Any) -> nn.Linear:
    """Return a layer as a matrix, with its adapter added where it has one."""
    base = of.get_base_layer() if hasattr(of, "get_base_layer") else of
    if base is of:
        return of  # type: ignore[no-any-return]
    made = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
    made.weight = nn.Parameter(merged_weight(of), requires_grad=False)
    made.bias = base.bias
    return made
