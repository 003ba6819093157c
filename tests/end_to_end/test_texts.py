"""A pretrained model at four real sites, each with the texts of a domain, privately."""

from __future__ import annotations

from typing import Any

import pytest

DOMAINS = ("movie", "nyt", "tweets", "amazon")
SHORT = ("--rounds", "2", "--set", "data.length=16")


@pytest.mark.faults
@pytest.mark.data("sentiment", "minilm")
def test_four_domains_adapt_a_pretrained_model_and_are_audited(lab: Any) -> None:
    lab.start()
    for name in DOMAINS:
        lab.add(name, part=name, data="sentiment")
    lab.approve(lab.bundle("sentiment-lora-private", *SHORT))
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online()
    summary = lab.submit("sentiment-lora-private", *SHORT, seconds=900)
    run = lab.coordinator / "runs" / "sentiment-lora-private"
    assert [r["accepted"] for r in lab.rounds(run.name)] == [4, 4], lab.logs()
    assert set(summary["privacy"]["sites"]) == set(DOMAINS)
    # Of 22.7 million parameters the heads alone travel, and the base is never sent.
    assert summary["parameters"] == 1537 + 385
    assert summary["bytes"]["up"] < 4 * 2 * (4 * summary["parameters"] + 200)
    audit = lab.json("audit", "ledgers", run, *(p.home / "ledgers" for p in lab.partners.values()))
    assert audit["clean"], audit
