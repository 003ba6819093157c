"""Shared test set-up: the marker `data(name)` for tests that need what is fetched."""

from __future__ import annotations

import os
from itertools import count

import pytest

from fedlite.data import BASES, available

_NUMBERS = count()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and keep torch to one thread here and in every child process."""
    # Two threads on two busy cores spin for each other and are ten times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config.addinivalue_line(
        "markers",
        "data(name): needs this data source or base model; skipped where it is missing, failed "
        "where it is missing and FEDLITE_REQUIRE_DATA=1",
    )


@pytest.fixture(autouse=True)
def _register(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give each test a register of its own: what sites of others spend on is theirs."""
    folder = tmp_path_factory.getbasetemp() / "registers" / str(next(_NUMBERS))
    monkeypatch.setenv("FEDLITE_REGISTER", str(folder))


# From half a minute to four: begun last, one worker would wait for the other.
_LONGEST = (
    "end_to_end/test_deployment.py",
    "end_to_end/",
    "clients/runtime/test_desk.py",
    "deployment/test_kit.py",
    "mutants/test_mutants.py",
    "attacks/",
    "simulations/",
    "examples/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    found = (at for at, name in enumerate(_LONGEST) if f"tests/{name}" in item.nodeid)
    return next(found, len(_LONGEST))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose data are missing, or fail it where data are required."""
    for marker in item.iter_markers("data"):
        for name in marker.args:
            if BASES[name].available() if name in BASES else available(name):
                continue
            reason = f"data source {name!r} is missing: run `fedlite data fetch {name}`"
            if os.environ.get("FEDLITE_REQUIRE_DATA") == "1":
                pytest.fail(f"FEDLITE_REQUIRE_DATA=1, and {reason}", pytrace=False)
            pytest.skip(reason)
