"""Adapters trained with every text protected: the mechanism is that of any other model.

Covers fedlite/models/pretrained/classifier.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.models import build
from fedlite.models.pretrained.adapters import METHODS
from fedlite.models.pretrained.network import layers_of
from fedlite.parameters import load_vector, to_vector
from fedlite.privacy import RecordMechanism
from fedlite.privacy.gradients import ModelGradients
from fedlite.privacy.trial import block_of
from fedlite.scenario import ScenarioError, from_dict
from fedlite.tasks import joint, make
from fedlite.training import Learner
from tests.models.pretrained.conftest import LAYERS, save, texts

SHAPE, ROUNDS, BATCH = (2, 12), 6, 5
PRIVACY = {"unit": "record", "epsilon": 8.0, "clip": 0.5, "expected_batch": BATCH}


def planned(bert: Path, method: str, **tables: Any) -> plans.Plan:
    options = {"base": str(bert), "method": method, "rank": 3, "layers": [3, 4]}
    base: dict[str, Any] = {
        "federation": {"rounds": ROUNDS, "sites": 2},
        "model": {"name": "lora", "options": options},
        "training": {"steps": 1, "learning_rate": 0.5, "device": "cpu"},
        "uplink": {"compressor": "dense", "error_feedback": False},
        "privacy": PRIVACY,
    }
    return plans.of(from_dict(base | tables), SHAPE, 2)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_noised_sum_of_each_texts_clipped_gradient(bert: Path, method: str) -> None:
    """Against autograd, a text at a time, over what moves in that round alone."""
    plan = planned(bert, method)
    rng = np.random.default_rng(0)
    data = Dataset(texts(7).numpy(), rng.integers(0, 2, 7))
    learner = Learner(plan, data)
    model = rng.normal(0, 0.2, plan.layout.size).astype(np.float32)
    clip, rate, quiet_noise = 0.5, plan.learning_rate(1), 1e-4
    for number in (1, 2):
        turn = plan.turn(number)
        moving = np.arange(plan.layout.size) if turn is None else turn.moving
        load_vector(learner.model, model)
        trained = [p for p in learner.model.parameters() if p.requires_grad]
        total = np.zeros(plan.layout.size)
        for x, y in zip(learner.inputs, learner.labels, strict=True):
            loss = learner.loss(learner.model(x[None]), y[None]).sum()
            parts = torch.autograd.grad(loss, trained)
            one = torch.cat([part.double().flatten() for part in parts]).numpy()
            length = np.linalg.norm(one[moving])
            total[moving] += one[moving] * min(1.0, clip / length)

        def delta(noise: float, number: int = number) -> np.ndarray:
            mechanism = RecordMechanism(clip, noise, 1.0, steps=ROUNDS, expected_batch=BATCH)
            return learner.delta(model, number, 1, mechanism)

        quiet, loud = delta(quiet_noise), delta(50.0)
        still = np.setdiff1d(np.arange(plan.layout.size), moving)
        scale = rate / BATCH
        assert np.abs(quiet + scale * total).max() < scale * clip * (8 * quiet_noise + 1e-4)
        assert np.abs(total[moving]).max() > 0.01 * clip
        assert loud[moving].std() / (scale * 50.0 * clip) == pytest.approx(1.0, rel=0.2)
        assert not quiet[still].any() and not loud[still].any()
        assert (len(still) > 0) == bool(plan.turns)


@pytest.mark.parametrize("method", [*METHODS, "heads"])
def test_each_round_is_one_accounted_step_whatever_is_trained(bert: Path, method: str) -> None:
    mechanisms = [planned(bert, one).mechanism for one in (method, "heads")]
    assert isinstance(mechanisms[0], RecordMechanism)
    assert mechanisms[0].steps == ROUNDS and mechanisms[0] == mechanisms[1]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"training": {"steps": 1, "optimizer": "adam"}}, r"training\.optimizer"),
        ({"training": {"steps": 1, "logit_adjustment": True}}, r"logit_adjustment"),
    ],
)
def test_what_is_not_private_is_refused(
    bert: Path, tables: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises((ScenarioError, ValueError), match=message):
        Learner(planned(bert, "both", **tables), Dataset(texts(7).numpy(), np.arange(7) % 2))


def test_nothing_below_the_lowest_adapter_is_differentiated_or_kept(bert: Path) -> None:
    def kept(layers: list[int]) -> tuple[int, list[bool]]:
        options = {"base": str(bert), "method": "both", "rank": 3, "layers": layers}
        model = build("lora", SHAPE, 2, seed=1, **options)
        seen: list[bool] = []

        def note(_module: object, _given: object, out: Any) -> None:
            seen.append((out[0] if isinstance(out, tuple) else out).requires_grad)

        for layer in layers_of(model.features.network)[1]:
            layer.register_forward_hook(note)
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(texts(4))
        return total, seen[:LAYERS]

    whole, all_of_them = kept([])
    half, upper = kept([3, 4])
    assert all_of_them == [True] * LAYERS and upper == [False, False, True, True]
    assert half < 0.6 * whole


@pytest.mark.parametrize(
    ("kind", "name"),
    [("llama", "lora"), ("qwen2", "lora"), ("bert", "lora"),
     ("llama", "lora-lm"), ("qwen2", "lora-lm")],
)  # fmt: skip
def test_a_short_text_moves_no_bit_of_the_whole_ones_beside_it(
    tmp_path: Path, kind: str, name: str
) -> None:
    """transformers leaves the mask out where a block has no padding: another kernel, other bits."""
    language, length = name == "lora-lm", 48
    base = save(kind, tmp_path / kind, language=language)
    model = build(name, (2, length), 1 if language else 2, seed=1, base=str(base), rank=3)
    values = np.random.default_rng(3).normal(0, 0.3, to_vector(model).size)
    load_vector(model, values.astype(np.float32))
    x = texts(32, length)
    x[:, 1] = 1
    y = torch.zeros(32, 1) if language else torch.arange(32) % 2
    loss = joint(make("causal-lm" if language else "classification"))
    assert block_of(model, x, y, loss, 16) == 32
    last, found = np.array([*[1.0] * 31, 0.0]), []
    for shown in (length, length // 2):
        x[-1, 1, shown:] = 0
        with ModelGradients(model, x, y, loss, 32) as gradients:
            found.append((gradients.norms(np.arange(32))[:-1], gradients.weighted(last)))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
