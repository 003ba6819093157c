"""A text's perplexity is that of a loop over its tokens, and hangs on no other text."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.data.text.cleaning import clean, rules
from fedlite.data.text.perplexity import perplexities, within
from fedlite.data.text.tokens import open_tokenizer
from fedlite.scenario.texts import Texts
from tests.data.text.wordy import wordy
from tests.models.pretrained.conftest import save

transformers = pytest.importorskip("transformers")
TEXTS = [
    "the patient has pain",
    "fever",
    "a good film today and a bad cough",
    "no",
    "no pain again",
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a small GPT-2 with a tokenizer."""
    folder = save("gpt2", tmp_path_factory.mktemp("decoder") / "gpt2", language=True)
    config = json.loads((folder / "config.json").read_text())
    return wordy(folder, config=config | {"max_position_embeddings": 64})


def test_it_is_that_of_a_loop_over_tokens(decoder: str) -> None:
    import torch

    network = transformers.AutoModelForCausalLM.from_pretrained(decoder).eval()
    tokenizer = open_tokenizer(decoder)
    for text, found in zip(TEXTS, perplexities(TEXTS, decoder), strict=True):
        x, _ = tokenizer.encode([text], 32)
        ids = x[0, 0, : x[0, 1].sum()]
        nll = []
        for at in range(1, len(ids)):
            with torch.no_grad():
                logits = network(input_ids=torch.from_numpy(ids[None, :at])).logits[0, -1]
            nll.append(-float(torch.log_softmax(logits.double(), 0)[ids[at]]))
        assert found == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)


def test_no_text_changes_what_another_comes_to(decoder: str) -> None:
    whole = perplexities(TEXTS, decoder)
    assert [perplexities([text], decoder)[0] for text in TEXTS] == whole
    assert perplexities(TEXTS[::-1], decoder) == whole[::-1]


def test_texts_beyond_the_public_numbers_go_and_it_is_a_rule_of_its_own(decoder: str) -> None:
    found = sorted(perplexities(TEXTS, decoder))
    settings = Texts(tokenizer=decoder, perplexity_base=decoder)
    kept = replace(settings, perplexity=(found[1], found[3]))
    assert sum(within(TEXTS, kept)) == 3
    cleaned = clean(TEXTS, np.zeros(5, np.int64), None, kept, answered=True)
    assert len(cleaned.texts) == 3 and "2 of 5 texts have no perplexity from" in cleaned.notes[0]
    # Off, it is no part of the digest, and another end or another decoder is another rule.
    assert "perplexity" not in rules(settings) and "perplexity" in rules(kept)
    assert rules(kept) != rules(replace(kept, perplexity=(found[1], found[4])))


def test_an_encoder_finds_none(tmp_path: Path) -> None:
    folder = save("bert", tmp_path / "bert", language=True)
    wordy(folder, config=json.loads((folder / "config.json").read_text()))
    with pytest.raises(ValueError, match=r"data\.perplexity_base: must be a decoder"):
        perplexities(TEXTS, str(folder))
