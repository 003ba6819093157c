"""A pretrained decoder that learns to foresee texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedlite.data.text.tokens import open_tokenizer
from fedlite.models import Single, build
from fedlite.parameters import load_vector, to_vector
from fedlite.privacy.gradients import ModelGradients
from tests.models.pretrained.conftest import save, texts

transformers = pytest.importorskip("transformers")
SHAPE = (2, 12)


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp("decoders") / request.param, language=True)


def model_of(decoder: Path, method: str = "both") -> Single:
    model = build("lora-lm", SHAPE, 1, seed=1, base=str(decoder), method=method, rank=3)
    assert isinstance(model, Single)
    values = np.random.default_rng(0).normal(0, 0.2, to_vector(model).size)
    load_vector(model, values.astype(np.float32))
    return model


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_answer_is_what_transformers_counts_for_a_text_alone(decoder: Path, side: str) -> None:
    """Its `labels=` gives the mean over a text's tokens but the first, in nats."""
    model = build("lora-lm", SHAPE, 1, seed=1, base=str(decoder))
    plain = transformers.AutoModelForCausalLM.from_pretrained(decoder).eval()
    x = texts(6, side=side)
    with torch.no_grad():
        (found,) = model(x)
        for answer, (ids, mask) in zip(found[:, 0], x, strict=True):
            alone = ids[mask > 0][None]
            wanted = plain(input_ids=alone, labels=alone).loss if alone.shape[1] > 1 else 0.0
            assert float(answer) == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients_record_by_record_are_those_of_a_loop(decoder: Path, side: str) -> None:
    model, x = model_of(decoder), texts(5, side=side)
    y = torch.zeros(5, 1)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    truth = []
    for row in x:
        parts = torch.autograd.grad(model(row[None])[0].sum(), trained)
        truth.append(torch.cat([part.double().flatten() for part in parts]).numpy())
    with ModelGradients(model, x, y, lambda outputs, _: outputs[0][:, 0], 2) as gradients:
        norms = gradients.norms(np.arange(5))
        total = gradients.weighted(np.ones(5))
    lengths = np.linalg.norm(truth, axis=1)
    assert np.allclose(norms, lengths, rtol=1e-5, atol=1e-6)
    assert np.abs(total - np.sum(truth, axis=0)).max() <= 1e-5 * np.abs(truth).max()


def test_what_foresees_better_answers_less(decoder: Path) -> None:
    """A few steps on one text, and the text is foreseen; frozen values stay."""
    model, x = model_of(decoder), texts(4)
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(x)[0].mean()
        losses.append(float(loss.detach()))
        functional.relu(loss).backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    for name, parameter in model.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name])


def test_a_layer_that_is_not_there_is_named(decoder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.options\.layers: must be from 1 to the 4 layers"):
        build("lora-lm", SHAPE, 1, seed=1, base=str(decoder), layers=[5])


def test_another_task_is_named(decoder: Path) -> None:
    with pytest.raises(ValueError, match=r"set task\.name to causal-lm"):
        build("lora-lm", SHAPE, 2, seed=1, base=str(decoder))


@pytest.mark.long
@pytest.mark.data("smollm2")
def test_smollm_foresees_what_is_true() -> None:
    """Its 4-bit weights are written out as they are: it knows the capital of France."""
    model = build("lora-lm", SHAPE, 1, seed=1, base="smollm2", method="frozen-a")
    tokenizer = open_tokenizer("smollm2")
    endings = ["The capital of France is Paris.", "The capital of France is cheese."]
    x = torch.from_numpy(tokenizer.encode(endings, SHAPE[1])[0])
    with torch.no_grad():
        true, untrue = model(x)[0][:, 0].tolist()
    assert 2.0 < true < 3.0 and untrue > true + 2
