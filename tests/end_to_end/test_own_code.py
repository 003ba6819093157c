"""A user's model, strategy and compressor at three real sites, and the same in a simulation."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

FILES = {
    "study.toml": """
[federation]
rounds = 2
sites = 3
quorum = 3
strategy = "rules.py:Slow"
strategy_options.rate = 0.5
[data]
name = "digits"
[model]
name = "models/net.py:make"
options.hidden = 12
[training]
learning_rate = 0.2
[uplink]
compressor = "rules.py:halves"
""",
    "models/net.py": """
from torch import nn

from fedlite.models import Branched
from layers import tail

def make(shape, classes, *, hidden: int = 4):
    inputs = shape[0] * shape[1] * shape[2]
    top = tail(inputs, hidden, classes)
    return Branched(nn.Flatten(), nn.Linear(inputs, classes), top, shape=shape, classes=classes)
""",
    # It tries at a site what no code that was sent may do.
    "models/layers.py": """
import sys
from torch import nn

if "fedlite.guard.worker" in str(getattr(sys.modules["__main__"], "__spec__", "")):
    for name in ("site-01", "site-02", "site-03"):
        for secret in ("keys/node.pem", "site.toml"):
            try:
                open("HOMES/" + name + "/" + secret).close()
            except PermissionError:
                continue
            raise RuntimeError(secret + " is open")

def tail(inputs, hidden, classes):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes))
""",
    "rules.py": """
from dataclasses import dataclass

import numpy as np

from fedlite.compression import NOTHING, Decoded
from strategies import Strategy

@dataclass(frozen=True)
class Halves:
    name: str = "half"
    codec: int = 200

    def compress(self, vector, context=NOTHING):
        return vector.astype("<f2").tobytes()

    def decompress(self, body, size, context=NOTHING):
        if len(body) != 2 * size:
            raise ValueError(f"body: must have {2 * size} bytes, got {len(body)}")
        return Decoded(size, None, np.frombuffer(body, "<f2").astype(np.float32))

    def limit(self, size):
        return 2 * size

def halves(settings):
    return Halves()

class Slow(Strategy):
    def __init__(self, federation, mean, *, rate: float = 1.0):
        super().__init__(federation, mean)
        self.rate = np.float32(rate)

    def step(self, state, mean):
        return state.having(model=state.model + self.rate * mean)
""",
}
SITES = ("site-01", "site-02", "site-03")


def model(directory: Path) -> dict[str, Any]:
    return dict(safetensors.numpy.load_file(directory / "model.safetensors"))


@pytest.mark.long
def test_a_user_s_code_is_approved_shut_in_and_gives_the_simulation_s_model(lab: Any) -> None:
    study = lab.root / "study"
    for name, text in FILES.items():
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(text.replace("HOMES", str(lab.root)))
    scenario = str(study / "study.toml")
    lab.start()
    for name in SITES:
        home = lab.add(name, part=name, data="digits").home
        (home / "site.toml").write_text(
            (home / "site.toml").read_text().replace('units = ["record"]', 'units = ["none"]')
        )

    # Nobody was asked, so nothing was run.
    bundle = lab.root / "study.fab"
    refused = lab.fedlite("server", "bundle", scenario, "--out", bundle, code=2)
    digests = {
        f"own/{name}": sha256((study / name).read_bytes()).hexdigest()
        for name in FILES
        if name.endswith(".py")
    }
    for name, digest in digests.items():
        assert f"{digest}  {name}" in refused.stderr
    assert "--run-own-code" in refused.stderr and not bundle.exists()
    lab.fedlite("server", "bundle", scenario, "--out", bundle, "--run-own-code")

    home = lab.partners["site-01"].home
    shown = lab.fedlite("site", "approve", home, bundle, "--yes", code=1)
    assert "--changed-code" in shown.stderr
    # A line that is too long for a screen goes on below.
    page = shown.stdout.replace("\n      > ", "")
    for name, digest in digests.items():
        assert f"{name}: CODE THAT IS NOT INSTALLED HERE, SHA-256 {digest}" in page
        for line in (study / name.removeprefix("own/")).read_text().splitlines():
            assert f"| {line}\n" in page
    lab.approve(bundle, "--changed-code")
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online()
    summary = lab.submit(scenario, "--run-own-code")
    assert [r["accepted"] for r in lab.rounds("study")] == [3, 3], lab.logs()
    assert summary["parameters"] == 64 * 12 + 12 + 12 * 10 + 10 + 64 * 10 + 10

    run = lab.coordinator / "runs" / "study"
    lab.fedlite("simulate", scenario, "--out", lab.root / "simulated")
    deployed, simulated = model(run), model(lab.root / "simulated")
    assert deployed.keys() == simulated.keys()
    for name, values in deployed.items():
        np.testing.assert_array_equal(values, simulated[name], err_msg=name)
    # The run is whole: its model is made again from what it keeps.
    assert 'name = "own/models/net.py:make"' in (run / "scenario.toml").read_text()
    (line,) = (one for one in lab.journal(lab.coordinator) if one["action"] == "submit")
    assert f"own/models/net.py={digests['own/models/net.py']}" in line["own"]

    # Another line of it is another bundle, and another run.
    lab.fedlite("server", "submit", scenario, "--run-own-code", "--detach", code=2)
    (study / "models" / "layers.py").write_text("1 / 0\n")
    failed = lab.fedlite("server", "submit", scenario, "--run-own-code", "--detach", code=2)
    assert "own/models/layers.py, line 1" in failed.stderr
    assert json.loads((run / "summary.json").read_text())["rounds"] == 2
