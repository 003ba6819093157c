"""A process that is told to leave sees it, and its old handlers are there again afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from fedlite.deployment.signals import signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_ends_nothing(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_an_error_puts_the_handlers_back_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), signals():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before
