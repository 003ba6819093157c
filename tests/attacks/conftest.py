"""Fixtures of the attacks' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedlite.attacks.subject import Subject
from tests.attacks.ground import prepared


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """Return what makes a small scenario, with other keys of [privacy], ready to be attacked."""
    return lambda **privacy: prepared(tuple(sorted(privacy.items())))
