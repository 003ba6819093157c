"""A coordinator with two sites at work, shared by the tests of a file."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end.refusals.partners import enrol


@pytest.fixture(scope="module")
def lab(running_lab: Any) -> Any:
    """The coordinator, and two sites at work."""
    for name in ("a", "b"):
        enrol(running_lab, name)
        running_lab.partners[name].start()
    for partner in running_lab.partners.values():
        partner.wait_online()
    return running_lab
