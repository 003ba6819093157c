"""Folders that are not whole: nothing starts on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clients.runtime import doctor, setup
from clients.runtime.node import Runtime
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("site.toml", "write one with `fedlite site init`"),
        ("coordinator.json", "run `fedlite site join"),
        ("keys/node.pem", "restore it"),
    ],
)
def test_a_half_written_site_does_not_start(lab: Any, tmp_path: Path, name: str, text: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(lab.partners["b"].home, home)
    (home / name).unlink()
    with pytest.raises((ValueError, OSError), match=text) as caught:
        Runtime(home)
    assert str(home / name) in str(caught.value)


def test_a_site_without_its_ledger_key_is_found_by_the_doctor(lab: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(lab.partners["b"].home, home)
    (home / setup.LEDGER).unlink()
    found = {check.name: check for check in doctor.examine(home)}
    assert found["keys"].state == "fail" and str(home / setup.LEDGER) in found["keys"].what


def test_a_half_written_coordinator_does_not_start(tmp_path: Path) -> None:
    mends = {
        "coordinator.toml": "restore it from a copy",
        "ca/ca.key": "restore it",
        "ca/ca.crt": "restore it from a copy",
        "tls/server.key": "restore it",
        "witness.pem": "restore it",
        "invitation.json": "run fedlite server init",
    }
    for number, (name, mend) in enumerate(mends.items()):
        made = init(tmp_path / str(number), "other", "localhost:9", superlink_port=10)
        (made.path / name).unlink()
        with pytest.raises((ValueError, OSError), match=mend) as caught:
            Coordinator.open(made.path)
        assert Path(name).name in str(caught.value)
