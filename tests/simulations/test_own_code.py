"""Everything of one's own in one run, under each engine, and what goes wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fedlite.scenario import ScenarioError, load
from server.rounds import RunFailed
from simulations.run import simulate

SCENARIO = """
[federation]
rounds = 2
sites = 2
strategy = "rules.py:Slow"
[federation.strategy_options]
rate = 0.5
[data]
name = "mine.py:load"
partition = "mine.py:split"
options.n = 60
partition_options.first = 0.4
[model]
name = "models/net.py:make"
options.hidden = 6
[training]
learning_rate = 0.5
[uplink]
compressor = "rules.py:halves"
options.least = 0.0
"""
MINE = """
import numpy as np
from helper import above

def load(n=10, *, seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 3))
    return x, above(x[:, 0])

def split(source, sites, *, seed, first=0.5):
    cut = int(first * len(source.train))
    return [range(cut), range(cut, len(source.train))]
"""
NET = """
from torch import nn
from fedlite.models import Branched

def make(shape, classes, *, hidden: int = 4):
    import layers
    tail = layers.tail(shape[0], hidden, classes)
    return Branched(nn.Identity(), nn.Linear(shape[0], classes), tail, shape=shape, classes=classes)
"""
LAYERS = """
from torch import nn

def tail(width, hidden, classes):
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, classes))
"""
RULES = """
from dataclasses import dataclass
import numpy as np
from fedlite.compression import NOTHING, Decoded
from strategies import Strategy
from helper import above

class Slow(Strategy):
    def __init__(self, federation, mean, *, rate: float = 1.0):
        super().__init__(federation, mean)
        self.rate = np.float32(rate)

    def step(self, state, mean):
        return state.having(model=state.model + self.rate * mean)

@dataclass(frozen=True)
class Halves:
    least: float
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

def halves(settings, *, least: float = 0.0):
    return Halves(least)
"""
HELPER = "def above(x):\n    return (x > 0).astype(int)\n"
FILES = {
    "s.toml": SCENARIO, "mine.py": MINE, "rules.py": RULES, "helper.py": HELPER,
    "models/net.py": NET, "models/layers.py": LAYERS, "models/helper.py": "1 / 0\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(folder: Path, out: str, *overrides: str, engine: str = "serial") -> Path:
    simulate(load(folder / "s.toml", overrides), folder / out, engine=engine, quiet=True)
    return folder / out


def model(directory: Path) -> dict[str, Any]:
    return dict(safetensors.numpy.load_file(directory / "model.safetensors"))


def same(one: Path, two: Path) -> None:
    first, second = model(one), model(two)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.long
def test_everything_of_ones_own_in_one_run_serial_and_pool(folder: Path) -> None:
    serial = run(folder, "serial")
    told = json.loads((serial / "summary.json").read_text())
    assert told["parameters"] == 3 * 6 + 6 + 6 * 2 + 2 + 3 * 2 + 2
    same(serial, run(folder, "pool", engine="pool"))
    wider = run(folder, "wider", "model.options.hidden=7", "federation.strategy_options.rate=1")
    assert json.loads((wider / "summary.json").read_text())["parameters"] == told["parameters"] + 6
    # The run goes on from anywhere, and its record says nothing of folders.
    assert f'"{folder / "models" / "net.py"}:make"' in (serial / "scenario.toml").read_text()
    assert str(folder) not in (serial / "summary.json").read_text()


@pytest.mark.ray
@pytest.mark.long
def test_the_same_under_ray(folder: Path) -> None:
    same(run(folder, "serial"), run(folder, "ray", engine="ray"))


@pytest.mark.long
def test_a_changed_helper_is_not_resumed(folder: Path) -> None:
    directory = run(folder, "out")
    (directory / "summary.json").unlink()
    for name in ("layers.py", "net.py"):
        path = folder / "models" / name
        text = path.read_text()
        path.write_text(text + "\n# changed\n")
        with pytest.raises(RunFailed, match="files of own code are not those that the run began"):
            simulate(load(directory / "scenario.toml"), directory, engine="serial", quiet=True)
        path.write_text(text)
    (folder / "models" / "helper.py").write_text("# nothing imports it\n")
    simulate(load(directory / "scenario.toml"), directory, engine="serial", quiet=True)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("models/net.py", "def make", "def made", r"model.name: .*net.py: has no 'make'; did you"),
        ("models/net.py", "classes, *", "classes, depth, *", r"model.options.depth: must be set, "
                          r"as make \(.*net.py, line 5\) has no default"),
        ("models/net.py", "(shape, classes, *", "(shape, *", r"model.name: .* must be a function "
                          r"that takes \(shape, classes, \*\*options\), got make\(shape, .*line 5"),
        ("models/layers.py", "hidden), nn", "0 * x), nn", r"model.name: .* fails \(NameError: .*'x'"
                             r".*mend .*layers.py, line 5"),
        ("models/layers.py", "import nn", "import nothing", r"cannot be imported|fails \(ImportErr"
                             r".*layers.py, line 2"),
        ("models/net.py", "return Branched", "return 3 #", r"must return a .*net.py, line 5"),
        ("rules.py", "mean)\n        self", "mean)\n        1 / 0\n        self",
         r"federation.strategy: .*ZeroDivisionError.*rules.py, line 11"),
        ("rules.py", "self.rate * mean", "mean[:2]", r"rules.py, line 14: ValueError.*broadcast"),
        ("rules.py", "self.rate * mean", "np.float32(np.nan)", r"Slow.step must return .*finite, "
                     r"got 46 .*NaN.*rules.py, line 13"),
        ("rules.py", "codec: int = 200", "codec: int = 2", r"uplink.compressor: .*codec from 128"),
        ("rules.py", "return Halves(least)", "return None", r"uplink.compressor: .*NoneType"),
        ("mine.py", "return x, above(x[:, 0])", "return x, [0]", r"data.name: .*y: must be as long "
                    r"as x, got \[1\] beside \[60, 3\].*mend .*mine.py, line 5"),
        ("mine.py", "n=10", "m=10", r"data.options.n: must be an option of load .*line 5"),
        ("mine.py", "import above", "import below", r"data.name: .*cannot be imported \(ImportErr"),
        ("helper.py", "return", "return return", r"cannot be imported \(SyntaxError.*helper.py, l"),
        ("mine.py", "range(cut), range", "range(cut + 1), range", r"data.partition: .*record 24 is "
                    r"at 2 places; mend .*mine.py, line 9"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_message_with_the_file_and_line(
    folder: Path, file: str, old: str, new: str, message: str
) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises((ScenarioError, RunFailed, ValueError), match=f"(?s){message}") as caught:
        run(folder, "out")
    assert "\n" not in str(caught.value).strip()


def test_a_model_that_raises_in_the_middle_is_told_once_at_the_site(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "models" / "layers.py"
    path.write_text(
        LAYERS + "class Odd(nn.Tanh):\n    def forward(self, x):\n"
        "        if len(x) == 17:\n            raise RuntimeError('seventeen')\n"
        "        return super().forward(x)\n"
    )
    path.write_text(path.read_text().replace("nn.Tanh(),", "Odd(),"))
    with pytest.raises(RunFailed):
        run(folder, "out", "training.batch_size=17")
    assert "layers.py, line 9: RuntimeError: seventeen; mend it" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.long
def test_what_only_this_process_knows_runs_serially(folder: Path) -> None:
    from fedlite.registry import name_of

    def data() -> Any:
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (60, 3))
        return x, (x[:, 0] > 0).astype(int)

    name = f"data.name={name_of(data)}"
    plain = (name, "data.options={}", "data.partition=iid", "data.partition_options={}")
    run(folder, "out", *plain, engine="auto")
    for engine in ("pool", "ray"):
        with pytest.raises(ScenarioError, match=r"data.name: .* engine (pool|ray).*'python"):
            run(folder, engine, *plain, engine=engine)
