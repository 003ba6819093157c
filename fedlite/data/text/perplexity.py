"""Texts that a decoder foresees neither too well nor too badly: boilerplate and noise go.

Each text is looked at alone, in a pass of its own, and held against two public numbers: one record
more changes no other. What a text came to is told to nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from fedlite.data.bases import find
from fedlite.data.text.tokens import digest_of, open_tokenizer
from fedlite.scenario.texts import Texts

# Raised when a text comes to another number.
VERSION = 1
# So many tokens of a text are looked at.
LONGEST = 256
_KEY = "data.perplexity_base"


def within(texts: Sequence[str], settings: Texts) -> list[bool]:
    """Return of each text whether its perplexity lies in `settings.perplexity`, both ends included.

    Raises ValueError where the base is not here, is no decoder, or the extra is missing.
    """
    low, high = settings.perplexity
    return [low <= one <= high for one in perplexities(texts, settings.perplexity_base)]


def perplexities(texts: Sequence[str], base: str) -> list[float]:
    """Return the exponential of each text's mean negative log-likelihood a token but the first.

    base: the decoder. A text of one token comes to 1. The same bits whatever other texts there are.
    """
    tokenizer, (network, most) = open_tokenizer(base), _network(base, find(base, _KEY).digest)
    length = min(LONGEST, most or LONGEST, tokenizer.most or LONGEST)
    found = []
    with _one_thread() as torch:
        for text in texts:
            x, _ = tokenizer.encode([text], length)
            ids = torch.from_numpy(x[:, 0, : max(1, int(x[0, 1].sum()))])
            if ids.shape[1] < 2:
                found.append(1.0)
                continue
            logits = network(input_ids=ids).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
            found.append(math.exp(min(700.0, float(nll))))
    return found


def rule(settings: Texts) -> list[Any]:
    """Return what decides which texts stay, ready for JSON; nothing where all do."""
    if not settings.perplexity[1]:
        return []
    base = settings.perplexity_base
    return [VERSION, *settings.perplexity, LONGEST, find(base, _KEY).digest, digest_of(base)]


@lru_cache(maxsize=1)
def _network(base: str, _digest: str) -> tuple[Any, int]:
    """Return the decoder, and how many tokens it has positions for; 0: it does not say."""
    try:
        # A site's own process reads records without torch, but for this.
        from fedlite.data.loading import check_causal, load_network
    except ImportError as error:
        raise ValueError(
            f"data.perplexity: needs safetensors and transformers ({error}); "
            'pip install "fedlite[lora]"'
        ) from None
    network = load_network(find(base, _KEY), language=True).eval()
    check_causal(network, base, _KEY)
    return network, int(getattr(network.config, "max_position_embeddings", 0) or 0)


@contextmanager
def _one_thread() -> Iterator[Any]:
    """Give torch without gradients, in one thread: with more a sum may have other bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield torch
    finally:
        torch.set_num_threads(threads)
