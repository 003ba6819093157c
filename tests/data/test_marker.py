"""The marker `data` of the suite: skip where data are missing, fail where they are required."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_missing_data_skip_or_fail(tmp_path: Path, required: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\n@pytest.mark.data('heart-disease')\ndef test_it():\n    pass\n"
    )
    environment = os.environ | {
        "FEDLITE_CACHE": str(tmp_path / "none"),
        "FEDLITE_REQUIRE_DATA": required,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "fedlite data fetch heart-disease" in done.stdout
