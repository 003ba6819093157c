"""When a site asks again: early questions cost the coordinator, late ones cost the round."""

from __future__ import annotations

import pytest

from clients.runtime.pace import LONGEST, SHORTEST, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def play(rounds: float, count: int, took: float = 0.01) -> tuple[int, float]:
    """Return questions a round, and how late the last message was found, after even rounds."""
    clock = Clock()
    pace, questions, late = Pace(clock), 0, 0.0
    due = clock.now + rounds
    for _ in range(count):
        questions = 0
        while clock.now < due:
            clock.now += pace.pause(took)
            questions += 1
        late = clock.now - due
        pace.answered(7)
        due = clock.now + rounds
    return questions, late


def test_a_site_without_messages_asks_often_at_first_and_then_seldom() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.pause(0.01) == SHORTEST
    clock.now += 600
    assert pace.pause(0.01) == LONGEST


@pytest.mark.parametrize("seconds", [0.5, 3.0, 20.0, 60.0])
def test_even_rounds_are_met_in_time_with_few_questions(seconds: float) -> None:
    questions, late = play(seconds, 5)
    assert questions <= 20
    assert late <= max(SHORTEST, 0.1 * seconds)


def test_where_many_ask_everybody_asks_less() -> None:
    assert play(3.0, 5, took=0.5)[0] < play(3.0, 5, took=0.01)[0]


def test_a_new_run_is_not_waited_for_as_the_last_one_was() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.answered(7)
    clock.now += 3600
    pace.answered(8)
    assert pace.pause(0.01) == SHORTEST


def test_rounds_that_become_shorter_are_followed() -> None:
    clock = Clock()
    pace = Pace(clock)
    for gap in (20.0, 20.0):
        clock.now += gap
        pace.answered(7)
    gaps = []
    for _ in range(6):
        begun = clock.now
        clock.now += pace.pause(0.01)
        pace.answered(7)
        gaps.append(clock.now - begun)
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.5
