"""Texts told apart by a frozen transformer: heads on its layers, and adapters in them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.data.bases import find
from fedlite.data.loading import load_network
from fedlite.models.branched import PARTS, Branched, Early
from fedlite.models.fixed import Columns
from fedlite.models.pretrained.adapters import adapt, factors, turns
from fedlite.models.pretrained.network import (
    check_layers,
    first_layers,
    hidden_states,
    layers_of,
    made_up_tokens,
    read_tokens,
    work,
)
from fedlite.models.pretrained.plain import plain
from fedlite.parameters import frozen_digest

# Without gradients so many texts are computed at a time, of a length that is a multiple of this.
_BLOCK, _STEP = 32, 16
# In training so many texts of about one length are computed at a time: texts are short and long,
# and what a batch fills up to its longest one would be most of the work.
_ALIKE = 8
# What heads beside adapters answer is multiplied by. Adam moves all values alike, and those of a
# head on a thousand normalised features would drown what the adapters do.
BESIDE = 0.1
# Frozen features of the last texts, for the next run of the same process; bytes of them.
_known: OrderedDict[tuple[bytes, object, bytes], Tensor] = OrderedDict()
_MOST_KEPT = 1 << 29


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class Head(nn.Module):
    """A linear answer to pooled features that are normalised first; of two classes one number.

    factor: what the answer is multiplied by.
    """

    def __init__(self, width: int, classes: int, factor: float) -> None:
        """Start at zero."""
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(width, 1 if classes == 2 else classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.two = classes == 2

    def forward(self, features: Tensor) -> Tensor:
        """Map features [n, width] to logits [n, classes]."""
        answer: Tensor = self.factor * self.linear(features)
        return torch.cat([torch.zeros_like(answer), answer], 1) if self.two else answer


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the states that count, normalised by itself: [n, width]."""
    weights = mask.to(states.dtype).unsqueeze(2)
    mean = (states * weights).sum(1) / weights.sum(1)
    return functional.layer_norm(mean, mean.shape[1:])


class Pooled(nn.Module):
    """From tokens to what the two heads read: pooled states of some layers of the network.

    exit, deep: numbers of the layers that the early and the deep head read, from 1; of several the
    pooled states stand side by side.
    """

    def __init__(self, network: Any, exit: Sequence[int], deep: Sequence[int]) -> None:
        """Keep the network."""
        super().__init__()
        self.network = network
        self.read = (tuple(exit), tuple(deep))
        self.trim = True

    def train(self, mode: bool = True) -> Pooled:
        """Leave the network as it is used: there is nothing in it that training would change."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [n, 2, length] to features, float32 [n, exit's and deep's width].

        Texts of about one length go together. Where nobody asks for gradients they do so in blocks
        of one size, so that what a record becomes does not depend on which others there are.
        """
        tokens = tokens.long()
        if torch.is_grad_enabled() and not self.trim:
            return self._features(tokens, trim=False)
        places = torch.arange(1, tokens.shape[2] + 1, device=tokens.device)
        longest = (tokens[:, 1] * places).amax(1).clamp_min(1)
        if torch.is_grad_enabled():
            order = longest.argsort()
            parts = [self._features(tokens[rows], trim=True) for rows in torch.split(order, _ALIKE)]
            return torch.cat(parts)[order.argsort()]
        lengths = ((longest + _STEP - 1) // _STEP * _STEP).clamp_max(tokens.shape[2])
        found = torch.empty((len(tokens), sum(self.widths)), device=tokens.device)
        for length in sorted(set(lengths.tolist())):
            for rows in torch.split(torch.nonzero(lengths == length).flatten(), _BLOCK):
                filled = torch.cat([rows, rows[:1].expand(_BLOCK - len(rows))])
                block = self._features(tokens[filled][:, :, :length], trim=False)
                found[rows] = block[: len(rows)]
        return found

    def _features(self, tokens: Tensor, *, trim: bool) -> Tensor:
        ids, mask = read_tokens(tokens, self.network.config.vocab_size, trim=trim)
        states = hidden_states(self.network, ids, mask, alike=not trim)
        return torch.cat([pooled(states[at], mask) for part in self.read for at in part], 1)

    @property
    def widths(self) -> tuple[int, int]:
        """Return how wide each head's features are."""
        width = int(self.network.config.hidden_size)
        return width * len(self.read[0]), width * len(self.read[1])


class Classifier(Branched):
    """A pretrained transformer that answers twice: from an early layer, and from the last ones.

    features: tokens to what the heads read. frozen: whether nothing in it is trained, so that it is
    computed once a record and not in every step. alternating: whether A and B of its adapters are
    trained in turns, the heads in every round.
    """

    # Records that are clipped in one pass: their gradients stand in memory one by one.
    block = 32

    def __init__(
        self,
        features: Pooled,
        *,
        shape: tuple[int, ...],
        classes: int,
        frozen: bool,
        alternating: bool = False,
    ) -> None:
        """Put a head on each part of the features."""
        early, deep = features.widths
        factor = 1.0 if frozen else BESIDE
        super().__init__(
            nn.Identity() if frozen else features,
            nn.Sequential(Columns(0, early), Head(early, classes, factor)),
            nn.Sequential(Columns(early, early + deep), Head(deep, classes, factor)),
            shape=shape,
            classes=classes,
        )
        self.frozen = features if frozen else None
        self.alternating = alternating

    @property
    def features(self) -> Pooled:
        """What turns tokens into what the heads read."""
        found = self.frozen or self.stem
        if not isinstance(found, Pooled):
            raise TypeError(f"stem: must be Pooled, got {type(found).__name__}")
        return found

    def prepare(self, x: Tensor) -> Tensor:
        """Return tokens as they are, or the features of them where nothing in those is trained."""
        if self.frozen is None:
            return x
        key = frozen_digest(self), self.frozen.read, sha256(x.cpu().numpy().tobytes()).digest()
        if key not in _known:
            with torch.no_grad():
                features: Tensor = self.frozen(x)
            while _known and sum(map(_bytes, (*_known.values(), features))) > _MOST_KEPT:
                _known.popitem(last=False)
            _known[key] = features
        _known.move_to_end(key)
        return _known[key]

    def one_by_one(self) -> None:
        """Leave no column of a batch out; see `Branched.one_by_one`."""
        self.features.trim = False

    def standing(self) -> tuple[tuple[str, ...], ...]:
        """Return what stands still in each turn; see `Branched.standing`."""
        return turns(self) if self.alternating else ()

    def products(self) -> tuple[tuple[str, str], ...]:
        """Return B and A of each adapted module; see `Branched.products`."""
        return factors(self)

    def early(self) -> Branched:
        """Return the shallow branch, without the layers above its own; see `Branched.early`."""
        read = self.features.read[0]
        features = Pooled(first_layers(self.features.network, max(read)), read, ())
        features.trim = self.features.trim
        small = copy.copy(self)
        small._modules = {**self._modules, "frozen" if self.frozen else "stem": features}
        return Early(small, small.stem)

    def deployed(self) -> Branched:
        """Return the same function, cut behind the early head's layer; see `Branched.deployed`.

        Adapters are added to copies of the weights. Raises ValueError as `plain` does.
        """
        features = self.features
        (cut,), read = features.read
        heads = self.exit[1], self.tail[1]  # type: ignore[index]
        return plain(features.network, cut, read, heads, shape=self.shape, classes=self.classes)

    def made_up(self, count: int) -> Tensor:
        """Return texts that nobody wrote, of full length."""
        return made_up_tokens(count, self.shape[1])

    def costs(self) -> dict[str, dict[str, int]]:
        """Count trainable parameters and work per text of full length; see `Branched.costs`.

        The stem is the network up to the layer that the early head reads.
        """
        features = self.features
        name, layers = layers_of(features.network)
        above = tuple(f"{name}.{at}." for at in range(max(features.read[0]), len(layers)))
        sizes = dict.fromkeys(PARTS, 0)
        for key, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = key.partition(".")[0]
                deep = part == "stem" and key.partition("network.")[2].startswith(above)
                sizes["tail" if deep else part] += parameter.numel()
        stem, whole = work(features.network, max(features.read[0]), self.shape[1])
        answers = 1 if self.classes == 2 else self.classes
        exit, head = (answers * width for width in features.widths)
        macs = {"stem": stem, "exit": exit, "tail": whole - stem + head}
        return {part: {"parameters": sizes[part], "macs": macs[part]} for part in PARTS}


def lora(
    shape: tuple[int, ...],
    classes: int,
    *,
    base: str = "minilm",
    method: Literal["both", "frozen-a", "alternating", "sb", "heads"] = "both",
    rank: int = 8,
    alpha: float = 0.0,
    targets: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    read: tuple[int, ...] = (),
    exit: int = 0,
) -> Classifier:
    """Build ``lora``: texts told apart by a pretrained transformer with few trained values.

    Args:
        shape: ``[2, length]``: token ids and which of them count.
        classes: number of classes.
        base: the transformer: a name of the catalogue, or a folder.
        method: what is trained; ``heads`` trains linear heads on frozen layers, and nothing else.
        rank: of the adapters, at least 1.
        alpha: the adapters' factor is alpha / rank; 0 is 2 rank.
        targets: modules that are adapted, by the last part of their names; none: the usual ones.
        layers: which layers are adapted, from 1; none: all.
        read: the layers that the deep head reads, from 1; none: the middle one and all after it.
            One layer alone knows less, however it is adapted.
        exit: the layer that the early head reads; 0 is the middle one.
    """
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(
            f"model 'lora' needs texts [2, length]; the data's shape is {list(shape)}; name a "
            "source of texts, and data.text"
        )
    network = load_network(find(base, "model.options.base"))
    count = len(layers_of(network)[1])
    middle = (count + 1) // 2
    early, deep = exit or middle, read or tuple(range(middle, count + 1))
    check_layers(network, "exit", (early,))
    check_layers(network, "read", deep)
    frozen = method == "heads"
    if not frozen:
        adapt(network, method, rank=rank, alpha=alpha, targets=targets, layers=layers)
    features = Pooled(network, (early,), deep)
    return Classifier(
        features,
        shape=shape,
        classes=classes,
        frozen=frozen,
        alternating=method == "alternating",
    )
