"""How many bytes leave at most, held against what real members of a sum send."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from clients.runtime import payload
from tests.clients.runtime.hospitals import Hospitals


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ("a", "b", "c", "d", "e", "f")])
def test_a_masked_vector_and_its_steps_are_as_long_as_was_told(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    all_of_them = Hospitals(tmp_path, names)
    group, mechanism = all_of_them.group(), all_of_them.mechanism
    all_of_them.join(group)
    sent = dict.fromkeys(names, 0)
    collector = all_of_them.collector(group)
    for name, values in all_of_them.values().items():
        body = all_of_them.sites[name].vector(1, values)
        assert len(body) == payload.masked_body(mechanism)
        collector.add(name, body)
    ask = all_of_them.exchange({})

    def counted(questions: Mapping[str, bytes]) -> dict[str, bytes]:
        answers = ask(questions)
        for name, blob in answers.items():
            sent[name] += len(blob)
        return answers

    found, _ = collector.finish(counted)
    assert found == list(names)
    assert set(sent.values()) == {payload.SUM_STEPS}
