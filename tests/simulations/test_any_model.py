"""Networks as people write them: statistics that run along, odd tensors, frozen and unused ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedlite import plan as plans
from fedlite.api import Run
from fedlite.messages import site_id
from fedlite.scenario import Scenario, ScenarioError, from_dict
from simulations.run import simulate

MINE = """
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 64, classes)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.turned = nn.Parameter(torch.randn(16, 64).t() / 8)
        self.wide = nn.Linear(16, 16).double()
        self.short = nn.Linear(16, 16).bfloat16()
        self.again = nn.Linear(16, 16)
        self.again.weight = self.short.weight
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.idle = nn.Linear(3, 3)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = self.scale * (x.flatten(1) @ self.turned)
        for layer in (self.wide, self.short, self.again, self.frozen):
            x = functional.gelu(layer(x)) + x
        return self.head(x)


def net(shape, classes):
    return Net(classes)


def odd(shape, classes):
    return Odd(classes)
"""
DENSE = {"compressor": "dense", "values": "fp32"}


def scenario(folder: Path, name: str, **more: dict[str, object]) -> Scenario:
    (folder / "mine.py").write_text(MINE)
    tables: dict[str, dict[str, object]] = {
        "federation": {"sites": 3, "rounds": 2, "quorum": 2},
        "model": {"name": f"{folder / 'mine.py'}:{name}"},
        "training": {"batch_size": 50, "learning_rate": 0.1},
    }
    for section, keys in more.items():
        tables[section] = tables.get(section, {}) | keys
    return from_dict(tables)


def averaged(asked: Scenario) -> dict[str, torch.Tensor]:
    """Federated averaging as one writes it: whole state dicts, means of everything."""
    plan, _, sites = plans.simulated(asked)
    model = copy.deepcopy(plan.model().network)  # type: ignore[union-attr]
    for number in range(1, asked.federation.rounds + 1):
        states = []
        for site in sites:
            own = copy.deepcopy(model).train()
            optimizer = torch.optim.SGD([p for p in own.parameters() if p.requires_grad], lr=0.1)
            x, y = torch.from_numpy(site.train.x), torch.from_numpy(site.train.y)
            keys = [asked.federation.seed, number, site_id(site.name)]
            order = torch.from_numpy(np.random.default_rng(keys).permutation(len(y)))
            for rows in order.split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(own(x[rows]), y[rows]).backward()
                optimizer.step()
            states.append(own.state_dict())
        mean = {k: torch.stack([s[k].double() for s in states]).mean(0) for k in states[0]}
        model.load_state_dict(mean)
    return mean


def test_batch_norm_s_statistics_are_averaged_with_the_model(tmp_path: Path) -> None:
    asked = scenario(tmp_path, "net", uplink=DENSE, downlink=DENSE)
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    truth, found = averaged(asked), load_file(tmp_path / "run" / "model.safetensors")
    assert sorted(found) == sorted(truth) and "norm.running_var" in found
    for name, tensor in found.items():
        assert torch.allclose(tensor.double(), truth[name], atol=1e-5), name
    # The model by its files answers as the one that was scored.
    run = Run(tmp_path / "run")
    model = run.model()
    source = plans.simulated(asked)[1]
    assert source.test is not None
    with torch.no_grad():
        (deep,) = model(torch.from_numpy(source.test.x))
    right = float((deep.argmax(1).numpy() == source.test.y).mean())
    assert right == pytest.approx(run.summary["accuracy"]["deep"])


@pytest.mark.long
@pytest.mark.parametrize("links", ["rotated-topk", "topk", "eden"])
def test_statistics_travel_as_they_are_beside_what_is_compressed(
    tmp_path: Path, links: str
) -> None:
    density = {} if links == "eden" else {"density": 0.05}
    link = {"compressor": links, **density}
    asked = scenario(tmp_path, "net", uplink=link, federation={"rounds": 4})
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    run = Run(tmp_path / "run")
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert bool((found["norm.running_var"] > 0).all())
    steps = sum(-(-n // 50) for n, _ in run.summary["data"]["read"]["sites"].values()) / 3
    assert int(found["norm.num_batches_tracked"]) == pytest.approx(4 * steps, abs=1)
    # And the page says that they do.
    page = " ".join((tmp_path / "run" / "report.html").read_text().split())
    assert "update with running statistics behind it and nothing else" in page
    assert run.summary["accuracy"]["deep"] > 0.3 and run.summary["bytes"]["up_ratio"] > 3


@pytest.mark.long
def test_two_engines_agree_to_the_bit(tmp_path: Path) -> None:
    asked = scenario(tmp_path, "net")
    for engine in ("serial", "pool"):
        simulate(asked, tmp_path / engine, engine=engine, quiet=True)
    models = [(tmp_path / e / "model.safetensors").read_bytes() for e in ("serial", "pool")]
    assert models[0] == models[1]


@pytest.mark.parametrize("unit", ["record", "client"])
def test_batch_norm_is_refused_under_privacy_with_the_mend(tmp_path: Path, unit: str) -> None:
    asked = scenario(tmp_path, "net", privacy={"unit": unit}, training={"steps": 2})
    with pytest.raises(ScenarioError, match=r"model: .*GroupNorm"):
        simulate(asked, tmp_path / "run", engine="serial", quiet=True)


@pytest.mark.long
def test_odd_tensors_are_trained_and_frozen_ones_never_sent(tmp_path: Path) -> None:
    asked = scenario(tmp_path, "odd", federation={"rounds": 8})
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    run = Run(tmp_path / "run")
    names = set(load_file(tmp_path / "run" / "model.safetensors"))
    assert {"scale", "turned", "short.weight", "idle.weight"} <= names
    assert not {"frozen.weight", "frozen.bias", "again.weight"} & names
    trained = 1 + 64 * 16 + 3 * 16 * 16 - 256 + 3 * 16 + 12 + 170
    assert run.summary["parameters"] == trained
    assert run.summary["accuracy"]["deep"] > 0.6


def test_what_is_unused_is_refused_where_it_would_be_noised(tmp_path: Path) -> None:
    asked = scenario(tmp_path, "odd", privacy={"unit": "record"}, training={"steps": 2})
    with pytest.raises(ScenarioError, match=r"'idle\.weight' gets no gradient"):
        simulate(asked, tmp_path / "run", engine="serial", quiet=True)


@pytest.mark.long
def test_a_run_begins_with_given_weights_and_goes_on_with_no_others(tmp_path: Path) -> None:
    first = scenario(tmp_path, "net")
    simulate(first, tmp_path / "one", engine="serial", quiet=True)
    start = tmp_path / "w.safetensors"
    save_file(load_file(tmp_path / "one" / "model.safetensors"), start)
    asked = scenario(tmp_path, "net", model={"start": str(start)})
    plan = plans.simulated(asked)[0]
    assert np.array_equal(plan.first[: plan.stored.size], vector_of(start, plan))
    simulate(asked, tmp_path / "two", engine="serial", quiet=True)
    rounds = [json.loads(line) for line in (tmp_path / "two" / "rounds.jsonl").open()]
    last = json.loads((tmp_path / "one" / "rounds.jsonl").read_text().splitlines()[-1])
    assert rounds[0]["accuracy"]["deep"] > last["accuracy"]["deep"] - 0.1


def vector_of(path: Path, plan: plans.Plan) -> np.ndarray:
    tensors = load_file(path)
    return np.concatenate([tensors[name].numpy().ravel() for name in plan.stored.names])
