"""What the tests of scenarios share."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import (
    ScenarioError,
    from_dict,
)


def refusal(tables: dict[str, Any]) -> str:
    with pytest.raises(ScenarioError) as caught:
        from_dict(tables)
    return str(caught.value)


PRIVATE = {"unit": "record", "delta": 1e-5}
