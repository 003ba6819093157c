"""One-run audits: below the claim for the real mechanism, above it where there is no noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedlite.attacks import payload
from fedlite.attacks.subject import Subject
from fedlite.parameters import to_vector
from fedlite.privacy import client
from tests.attacks.mutants import RECORD


@pytest.mark.long
def test_scores_are_what_the_plan_says(subject: Callable[..., Subject]) -> None:
    one = subject()
    trace = payload.play(one, 3000, 6)
    assert trace.steps == one.steps == 12
    event = one.mechanism.event
    for scores, sites in ((trace.dense, 1), (trace.final, 3)):
        inside, outside = scores[trace.coins], scores[~trace.coins]
        # A canary is in a step with the sampling rate, and then moves it by 1 / sigma.
        shift = event.sampling_rate * np.sqrt(trace.steps / sites) / event.noise_multiplier
        slack = 5 / np.sqrt(len(outside))
        assert outside.mean() == pytest.approx(0.0, abs=slack)
        assert inside.mean() == pytest.approx(shift, abs=slack + 0.1 * shift)
    assert trace.dense[~trace.coins].std() == pytest.approx(1.0, abs=0.08)
    assert 0.1 < trace.ever <= 1.0


@pytest.mark.long
def test_bounds_are_below_the_claim_and_above_nothing(subject: Callable[..., Subject]) -> None:
    one = subject(epsilon=8.0)
    dense, sent, final = payload.one_run_audit(one, canaries=3500, rounds=6, confidence=0.95)
    assert {f.outcome for f in (dense, sent, final)} == {"pass"}
    assert 0.0 < (dense.epsilon or 0.0) < one.proven
    assert (final.epsilon or 0.0) < (dense.epsilon or 0.0)
    for finding in (dense, sent, final):
        assert finding.figures["steinke"] <= finding.figures["f-dp"] + 0.05


@pytest.mark.long
def test_no_noise_is_seen_in_what_is_sent(
    subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(epsilon=0.5)
    RECORD["no noise"][0](monkeypatch)
    _, sent, _ = payload.one_run_audit(one, canaries=3500, rounds=6, confidence=0.95)
    assert sent.outcome == "fail" and (sent.epsilon or 0.0) > one.proven


def test_the_model_is_left_as_it_was(subject: Callable[..., Subject]) -> None:
    one = subject()
    payload.play(one, 100, 2)
    np.testing.assert_array_equal(to_vector(one.learner.model), one.learner.initial)


def test_canary_clients_show_a_server_that_adds_no_noise(
    subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(unit="client", noise_at="server", epsilon=0.5)
    assert payload.client_audit(one, canaries=2048, confidence=0.999).outcome == "pass"
    monkeypatch.setattr(
        client, "noised_mean", lambda total, cohort, *_: (total / cohort).astype(np.float32)
    )
    found = payload.client_audit(one, canaries=2048, confidence=0.999)
    assert found.outcome == "fail" and found.figures["one-shot"] > one.proven
