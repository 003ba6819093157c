"""An encoder made smaller: what is cut was not needed, and what is taught comes nearer.

Covers fedlite/inference/small/encoder_teaching.py, fedlite/inference/small/encoder_search.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedlite.data import Dataset
from fedlite.inference.small import encoder, encoder_search
from fedlite.inference.small.encoder_teaching import said, taught
from fedlite.models.pretrained.classifier import lora
from fedlite.models.pretrained.plain import Encoder
from tests.models.pretrained.conftest import save, texts

TOKENS = texts(60).numpy()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    base = save("bert", tmp_path_factory.mktemp("base"))
    model = lora((2, 12), 2, base=str(base), method="heads", exit=1, read=(3,))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for head in (model.exit, model.tail):
            nn.init.normal_(head[1].linear.weight, std=0.5)
    made = model.deployed()
    assert isinstance(made, Encoder)
    with torch.no_grad():
        # Both classes are answered.
        made.tail.head.linear.bias -= said(made, TOKENS)[1][:, 1].median() / made.tail.head.factor
    return made.eval()


def apart(one: Encoder, other: Encoder) -> float:
    """Return how far the answers of two encoders are apart, at most."""
    pairs = zip(said(one, TOKENS), said(other, TOKENS), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_moments_are_those_of_the_tokens_that_count(whole: Encoder) -> None:
    found = encoder.moments_of(whole, TOKENS)
    rows = []
    with torch.no_grad():
        for text in TOKENS:
            given = torch.from_numpy(text[None, :, : int(text[1].sum())])
            places = torch.arange(given.shape[2])
            stem = whole.stem
            rows.append(stem.norm(stem.words(given[:, 0]) + stem.places[places])[0])
    reads = torch.cat(rows).double()
    wanted = reads.T @ reads / len(reads)
    torch.testing.assert_close(found["stem.layers.0.query"], wanted, atol=1e-4, rtol=1e-4)
    assert len(found) == 3 * 6 and found["tail.layers.1.down"].shape == (64, 64)


def test_hidden_units_that_nobody_reads_go_first(whole: Encoder) -> None:
    import copy

    idle = copy.deepcopy(whole)
    for layer in (*idle.stem.layers, *idle.tail.layers):
        with torch.no_grad():
            layer.down.weight[:, ::2] = 0
    moments = encoder.moments_of(idle, TOKENS)
    small, left = encoder.narrowed(idle, 0.5, moments)
    assert apart(small, idle) < 1e-5
    assert left["stem.layers.0.down"].shape == (32, 32)
    assert encoder.weights_of(small)[1] < encoder.weights_of(idle)[1]
    smaller, _ = encoder.narrowed(idle, 0.75, moments)
    assert apart(smaller, idle) > 1e-3


def test_a_matrix_of_low_rank_becomes_two_and_answers_the_same(whole: Encoder) -> None:
    import copy

    flat = copy.deepcopy(whole)
    with torch.no_grad():
        up = flat.stem.layers[0].up
        left, sizes, right = torch.linalg.svd(up.weight, full_matrices=False)
        up.weight.copy_(left[:, :4] * sizes[:4] @ right[:4])
    small = encoder.thinned(flat, 1e-9, encoder.moments_of(flat, TOKENS))
    made = small.stem.layers[0].up
    assert isinstance(made, nn.Sequential) and made[0].out_features == 4
    assert apart(small, flat) < 1e-3


def test_a_table_of_four_bits_is_within_half_a_step(whole: Encoder) -> None:
    before = whole.stem.words.weight
    after = encoder.rounded(whole, 4).stem.words.weight
    step = before.abs().max(1, keepdim=True).values / 7
    assert ((after - before).abs() <= step / 2 + 1e-6).all()
    assert all(len(row.unique()) <= 15 for row in after / step)


@pytest.mark.long
def test_teaching_brings_it_nearer_and_leaves_the_teacher_as_it_is(whole: Encoder) -> None:
    kept = {name: one.clone() for name, one in whole.state_dict().items()}
    small, _ = encoder.narrowed(whole, 0.75, encoder.moments_of(whole, TOKENS))
    better = taught(small, whole, TOKENS, steps=60, seed=0, rate=2e-3)

    def off(of: Encoder) -> float:
        pairs = zip(said(of, TOKENS), said(whole, TOKENS), strict=True)
        return sum(float((a - b).square().mean()) for a, b in pairs)

    assert off(better) < 0.5 * off(small)
    assert all(torch.equal(one, kept[name]) for name, one in whole.state_dict().items())
    assert torch.equal(better.stem.words.weight, whole.stem.words.weight)
    with pytest.raises(ValueError, match="steps: must be 0 or more"):
        taught(small, whole, TOKENS, steps=-1, seed=0)


def test_the_smallest_that_loses_no_more_is_taken(
    whole: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_search, "STEPS", 2)
    x = texts(400, seed=3).numpy()
    y = said(whole, x)[1].argmax(1).numpy().astype(np.int64)
    records = Dataset(x, y)
    first = encoder_search.smallest(whole, records, 0.99)
    assert (first.share, first.error, first.bits) == encoder_search.LADDER[0]
    monkeypatch.setattr(encoder_search, "LADDER", ((0.99, None, (4, 4)), (0.0, None, (8, 8))))
    strict = encoder_search.smallest(whole, records, 0.02)
    assert strict.share == 0 and strict.bytes_ > first.bytes_
    with pytest.raises(ValueError, match="--max-loss: must be from 0 to below 1"):
        encoder_search.smallest(whole, records, 1.0)
    with pytest.raises(ValueError, match="must have 50 records at least"):
        encoder_search.smallest(whole, records.take(np.arange(60)), 0.01)


@pytest.mark.parametrize("wrong", [-0.1, 1.0])
def test_a_share_that_cannot_be_is_refused(whole: Encoder, wrong: float) -> None:
    with pytest.raises(ValueError, match="share: must be from 0 to below 1"):
        encoder.narrowed(whole, wrong, {})
    with pytest.raises(ValueError, match="error: must be from 0 to 1"):
        encoder.thinned(whole, wrong if wrong < 0 else 1.1, {})
