"""Figures in words never flatter: an epsilon is not understated, a saving not overstated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedlite.reporting import wording


@given(st.floats(1e-9, 1e6))
def test_epsilon_is_never_understated_and_close(value: float) -> None:
    shown = Decimal(wording.epsilon(value))
    assert shown >= Decimal(repr(value))
    assert float(shown) - value <= max(0.01, 0) and (value > 0.1 or float(shown) <= value * 1.11)


@given(st.floats(1.1, 1e6))
def test_a_saving_is_never_overstated(ratio: float) -> None:
    found = re.fullmatch(r"([\d,.]+) times less", wording.times(ratio))
    assert found is not None
    shown = float(found[1].replace(",", ""))
    assert shown <= ratio * (1 + 1e-8) and shown > ratio * 0.9


@pytest.mark.parametrize("ratio", [1.0, 1.05, 1.099])
def test_a_saving_of_no_tenth_is_none(ratio: float) -> None:
    assert wording.times(ratio) == "about as much"


@given(st.floats(0.001, 0.999))
def test_a_loss_is_not_called_a_saving(ratio: float) -> None:
    words = wording.times(ratio)
    assert words.endswith("times more") and float(words.split()[0]) >= 1 / ratio * (1 - 1e-8)


@given(st.integers(0, 10**13))
def test_megabytes_keep_two_digits(size: int) -> None:
    number, unit = wording.megabytes(size).split()
    shown = float(number) * {"bytes": 1, "MB": 1e6, "GB": 1e9}[unit]
    assert math.isclose(shown, size, rel_tol=0.051)


@pytest.mark.long
@given(st.text())
def test_plain_text_has_only_printable_characters(text: str) -> None:
    assert wording.plain(text).isprintable()


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.87, "1.87"), (2.999, "3.00"), (3.0, "3.00"), (3.0000001, "3.01"), (0.0, "0.00")],
)
def test_epsilon_examples(value: float, words: str) -> None:
    assert wording.epsilon(value) == words


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), True, "3"])
def test_what_is_not_a_number_is_a_dash(value: object) -> None:
    assert wording.epsilon(value) == wording.share(value) == wording.score(value) == "-"


def test_verdict_of_a_private_run(make_run: Callable[..., Any]) -> None:
    assert " ".join(wording.verdict(make_run()[1])) == (
        "3 sites trained one model in 12 rounds. Each site sent 0.0075 MB instead of 0.99 MB "
        "(132 times less). On the global test set (360 records) it is right 91.4 % of the time "
        "with the deep branch and 87.4 % with the shallow one. No site's privacy loss exceeds "
        "epsilon 2.89 at delta 1e-05; what is protected is one record of a site. "
        "This is one run; seed 7."
    )


def test_verdict_names_the_server_that_is_trusted(make_run: Callable[..., Any]) -> None:
    _, summary = make_run()
    said = {}
    for at in ("site", "server"):
        summary["privacy"] |= {"unit": "client", "noise_at": at}
        said[at] = " ".join(wording.verdict(summary))
    assert "what is protected is one whole site. " in said["site"]
    assert "is one whole site, but not from the server, which adds the noise. " in said["server"]


def early(summary: Any) -> None:
    """Let a run have asked for 12 and 9 of its 48 steps."""
    for number, row in enumerate(summary["privacy"]["sites"].values()):
        row["prefix"] = {"steps": 12 - 3 * (number > 0), "epsilon": 1.0601 - number / 10}


def test_a_run_that_ended_early_tells_the_whole_plan_and_the_prefix_as_one(
    make_run: Callable[..., Any],
) -> None:
    _, summary = make_run()
    assert wording.prefix(summary["privacy"]) == ""
    early(summary)
    words = " ".join(wording.verdict(summary))
    assert "No site's privacy loss exceeds epsilon 2.89 at delta 1e-05" in words
    assert (
        "At most 12 of 48 steps were asked of a site; had this number been fixed beforehand, its "
        "loss would be epsilon 1.07. The bound is that of the whole plan." in words
    )
    for row in summary["privacy"]["sites"].values():
        row["prefix"]["steps"] = 48
    assert wording.prefix(summary["privacy"]) == ""


def test_verdict_is_honest_about_what_went_wrong(make_run: Callable[..., Any]) -> None:
    _, summary = make_run()
    summary["privacy"]["sites"]["site-03"]["epsilon"]["pld"] = 4.0
    summary["updates"] = {"accepted": 34, "dropped": 1, "missing": 1}
    words = " ".join(wording.verdict(summary))
    assert "The privacy budget is exceeded at site-03." in words
    assert "No site's privacy loss" not in words
    assert "On average a site sent" in words
    assert "Updates dropped: 1; missing at the deadline: 1." in words
    summary["privacy"]["sites"]["site-03"]["epsilon"]["pld"] = None
    assert "No bound on the privacy loss" in " ".join(wording.verdict(summary))


def test_verdict_without_a_claim(make_run: Callable[..., Any]) -> None:
    _, summary = make_run()
    summary["privacy"]["claimed"] = False
    assert "No privacy is claimed: noise was seeded." in wording.verdict(summary)
    assert "No privacy is claimed: no noise was added." in wording.verdict(
        make_run(private=False)[1]
    )


def test_a_score_that_some_sites_lack_does_not_speak_for_their_records(
    make_run: Callable[..., Any],
) -> None:
    _, summary = make_run(private=False, binary=True)
    whole = "sites' own held-out parts (108 records)"
    summary["accuracy"] |= {"of": "sites", "records": 108, "on": whole}
    assert f"On the {whole} its AUC is 0.876" in " ".join(wording.verdict(summary))
    del summary["auc"]["by_site"]["site-01"]
    # The fixture's sites hold out 35, 36 and 37.
    told = " ".join(wording.verdict(summary))
    assert "On the own held-out parts of 2 of 3 sites (73 records) its AUC is 0.876" in told
    del summary["auc"]["by_site"]["site-02"]
    told = " ".join([*wording.verdict(summary), *wording.measured_on(summary)])
    assert "of 1 of 3 sites (37 records) its AUC" in told
    assert "Its AUC is that of one site. Without an AUC" in told
