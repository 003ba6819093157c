"""What an import of fedlite.flower costs, and what it leaves alone in somebody else's process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fedlite import flower
from fedlite.flower import wire


def told(code: str) -> str:
    """Return what a new process prints that knows nothing of fedlite's switches."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_the_import_takes_neither_torch_nor_flower_with_it() -> None:
    loaded = "print([name for name in ('torch', 'flwr', 'numpy') if name in sys.modules])"
    assert told(f"import fedlite, fedlite.flower\n{loaded}") == "[]"


@pytest.mark.long
def test_the_two_lines_need_no_torch_and_switch_nothing_of_flower_s() -> None:
    code = (
        "import fedlite.flower\n"
        "from flwr.serverapp.strategy import FedAvg\n"
        "fedlite.flower.compress(), fedlite.flower.Compressed(FedAvg())\n"
        "print('torch' in sys.modules, [k for k in os.environ if k.startswith('FLWR_')])"
    )
    assert told(code) == "False []"


@pytest.mark.long
def test_fedlite_s_own_apps_switch_flower_s_telemetry_off() -> None:
    code = "from fedlite import flower\nflower.KEY\nprint(os.environ['FLWR_TELEMETRY_ENABLED'])"
    assert told(code) == "0"
    guards = "import fedlite.guard.egress\nprint(os.environ['FLWR_TELEMETRY_ENABLED'])"
    assert told(guards) == "0"


def test_every_name_is_found_and_no_other() -> None:
    for name in flower.__all__:
        assert getattr(flower, name) is not None
    assert flower.ask is wire.ask
    with pytest.raises(AttributeError, match="has no attribute 'aks'"):
        _ = flower.aks  # type: ignore[attr-defined]
