"""A smaller encoder learns to answer, early and late, as the one did that it was made from."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlite.inference.portions import portions
from fedlite.models.pretrained.plain import Encoder, parts

_TEMPERATURE, _BATCH = 2.0, 32
# So many batches of texts are sorted by length together.
_ALIKE = 8


def said(model: Encoder, tokens: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return an encoder's early and deep answers to texts, float32 [n, classes] each."""
    found = [torch.zeros(len(tokens), model.classes) for _ in model.branches]
    with torch.no_grad():
        for rows, part in portions(tokens):
            for kept, answers in zip(found, model(torch.from_numpy(part)), strict=True):
                kept[torch.from_numpy(rows)] = answers
    return found[0], found[1]


def taught(
    student: Encoder,
    teacher: Encoder,
    tokens: NDArray[np.int64],
    *,
    steps: int,
    seed: int,
    rate: float = 2e-4,
) -> Encoder:
    """Return the student after some steps towards the teacher's answers and hidden values.

    tokens: texts, int64 [n, 2, length], n at least 1; no label is read. steps: 0 or more, of 32
    texts each. seed: of their order. rate: Adam's, which falls to nothing along half a cosine. The
    table of words stays as it is: few texts show few of its rows.

    Source: Hinton, Vinyals and Dean 2015 for the answers; Jiao et al. 2020, "TinyBERT", for the
    hidden values, here those that the stem hands on.
    """
    if steps < 0 or not len(tokens):
        raise ValueError(f"steps: must be 0 or more, of 1 text or more, got {steps}")
    small = copy.deepcopy(student)
    if not steps:
        return small.eval()
    for name, one in small.named_parameters():
        one.requires_grad_(not name.startswith("stem.words."))
    trained = [one for one in small.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    skip = small.exit.skip
    for given in itertools.islice(_batches(tokens, seed), steps):
        with torch.no_grad():
            known = teacher.stem(given)
            answers = teacher.exit(known), teacher.tail(known)
        hidden = small.stem(given)
        _, there, mask = parts(known, skip)  # type: ignore[arg-type]
        _, here, _ = parts(hidden, skip)  # type: ignore[arg-type]
        apart = ((here - there).square().mean(2) * mask).sum() / mask.sum()
        loss = apart / (there.square().mean(2) * mask).sum() * mask.sum()
        for found, wanted in zip((small.exit(hidden), small.tail(hidden)), answers, strict=True):
            loss = loss + functional.kl_div(
                functional.log_softmax(found / _TEMPERATURE, dim=1),
                functional.softmax(wanted / _TEMPERATURE, dim=1),
                reduction="batchmean",
            ) * (_TEMPERATURE**2)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
    return small.eval().requires_grad_(False)


def _batches(tokens: NDArray[np.int64], seed: int) -> Iterator[Tensor]:
    """Yield batches of texts of about one length, each as short as its longest, without an end.

    Filled up to the longest text of any batch, most of the work would be for nothing.
    """
    drawn = np.random.default_rng(seed)
    lengths = np.maximum(tokens[:, 1].sum(axis=1), 1)
    while True:
        order = drawn.permutation(len(tokens))
        for start in range(0, len(order), _ALIKE * _BATCH):
            some = order[start : start + _ALIKE * _BATCH]
            some = some[np.argsort(lengths[some], kind="stable")]
            cuts = [some[at : at + _BATCH] for at in range(0, len(some), _BATCH)]
            for rows in (cuts[at] for at in drawn.permutation(len(cuts))):
                yield torch.from_numpy(tokens[rows][:, :, : lengths[rows].max()].copy())
