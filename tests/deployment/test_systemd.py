from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from clients.runtime import setup
from fedlite.deployment import systemd as unit
from server.coordinator import gateway


def test_paths_are_quoted(tmp_path: Path) -> None:
    home, program = tmp_path / "a $home 100%", "/opt/fed lite/bin/fedlite"
    words = [program, "site", "start", str(home)]
    text = unit.text(
        home / "u.service", "a site", words, home, "fl", "RestartSec=15", cores=3, tasks=9
    )
    text = text.decode()
    assert "CPUQuota=300%" in text and "TasksMax=9" in text and "MemoryMax=75%" in text
    shown = str(home)
    assert f'ReadWritePaths="{shown.replace("%", "%%")}"' in text
    start = shown.replace("$", "$$").replace("%", "%%")
    assert f'ExecStart="/opt/fed lite/bin/fedlite" "site" "start" "{start}"' in text
    assert text.startswith(f"# Install: sudo systemctl enable --now '{shown}/u.service'\n")
    assert "Restart=always" in text and "RestartSec=15" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("settings", [setup._SETTINGS, gateway._SETTINGS])
@pytest.mark.parametrize("capability", ["", "CAP_NET_BIND_SERVICE"])
def test_systemd_accepts_the_units(tmp_path: Path, settings: str, capability: str) -> None:
    home = tmp_path / "a home 100%"
    home.mkdir()
    path = tmp_path / "fedlite-some.service"
    path.write_bytes(
        unit.text(
            path,
            "some",
            ["/bin/true", "$x"],
            home,
            "root",
            settings,
            cores=2,
            tasks=256,
            capability=capability,
        )
    )
    said = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert "fedlite-some" not in said.stderr, said.stderr
