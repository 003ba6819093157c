"""What the study of adapters does beside running scenarios; simulations/benchmarks/lora.py."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedlite.models import build
from fedlite.models.start import load_start
from fedlite.parameters import load_vector, to_vector
from fedlite.scenario import load
from simulations.benchmarks import lora
from simulations.run import scenario_path
from tests.models.pretrained.conftest import save, texts

SHAPE = (2, 12)


@pytest.mark.parametrize("method", ["both", "frozen-a", "sb"])
def test_adapters_that_go_on_from_heads_begin_with_their_answers(
    method: str, tmp_path: Path
) -> None:
    base = str(save("bert", tmp_path / "bert"))
    heads = build("lora", SHAPE, 2, seed=1, base=base, method="heads")
    values = np.random.default_rng(0).normal(0, 0.2, to_vector(heads).size)
    load_vector(heads, values.astype(np.float32))
    trained = {n: p.detach() for n, p in heads.named_parameters() if p.requires_grad}
    (tmp_path / "run").mkdir()
    save_file(trained, tmp_path / "run" / "model.safetensors")
    start = lora.start_from(tmp_path / "run", tmp_path / "start.safetensors")
    model = build("lora", SHAPE, 2, seed=1, base=base, method=method, layers=[3, 4])
    load_start(model, start)
    x = texts(6)
    with torch.no_grad():
        for one, other in zip(heads(heads.prepare(x)), model(x), strict=True):
            assert one.abs().max() > 0.1
            assert torch.allclose(one, other, atol=1e-4)


def test_heads_and_what_goes_on_from_them_spend_eight_together() -> None:
    first = load(scenario_path(lora.PRIVATELY), lora.FIRST)
    for own in lora.AFTER_HEADS.values():
        second = load(scenario_path(lora.PRIVATELY), own)
        assert first.privacy.unit == second.privacy.unit == "record"
        assert first.privacy.epsilon + second.privacy.epsilon <= 8.0
        assert first.privacy.delta + second.privacy.delta <= 1e-5
        assert first.data.length == second.data.length


def test_a_budget_that_would_reach_both_stages_is_refused() -> None:
    parser = argparse.ArgumentParser()
    lora.refuse_budgets(parser, ("training.steps=2", "privacy.clip=1"))
    for one in ("privacy.epsilon=8", "privacy.delta = 1e-3"):
        with pytest.raises(SystemExit):
            lora.refuse_budgets(parser, (one,))
