"""The last table of a run, on a terminal 80 columns wide."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.reporting.table import as_json, print_summary


def printed(summary: dict[str, Any], directory: Path, **more: Any) -> str:
    stream = io.StringIO()
    print_summary(summary, directory, stream, **more)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(name))


def test_private(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run(private=True)
    text = printed(summary, tmp_path)
    assert row(text, "site-01") == ["site-01", "35", "71.1", "%", "81.1", "%", "2.89", "/", "3.00"]
    assert " ".join(row(text, "all")) == "all 360 87.4 % 91.4 % at most 2.89 0.022 MB 0.060 MB"
    assert row(text, "dense / sent") == ["dense", "/", "sent", "132x", "49x"]
    assert "sent 132 times less than dense float32, received 49 times less" in text
    summary["bytes"] |= {"up_ratio": 1.02, "down_ratio": 0.9}
    said = "sent about as much as dense float32, received 1.2 times more"
    assert said in printed(summary, tmp_path)
    assert "quickstart, seed 7" in text


def test_shared_noise_says_on_whom_epsilon_rests(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    _, summary = make_run(private=True)
    assert "epsilon holds" not in printed(summary, tmp_path)
    summary["privacy"] |= {
        "noise_at": "shared",
        "shared": {"sites": 5, "honest": 4, "alone": 6.7036, "epsilon": {"4": 3.0}},
    }
    text = " ".join(printed(summary, tmp_path).split())
    assert "epsilon holds if at least 4 of its 5 sites are honest; it is 6.71 if all" in text


def test_a_prefix_is_told_as_what_it_is(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run()
    for site in summary["privacy"]["sites"].values():
        site["prefix"] = {"steps": 12, "epsilon": 1.06}
    text = printed(summary, tmp_path)
    assert "2.89 / 3.00" in text and "at most 2.89" in text
    assert "12 of 48 steps were asked" in " ".join(text.split())


def test_without_privacy_there_is_no_epsilon(make_run: Callable[..., Any], tmp_path: Path) -> None:
    text = printed(make_run(private=False)[1], tmp_path)
    assert "epsilon" not in text and "claimed" not in text


def test_seeded_noise_shows_no_epsilon_but_says_why(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    _, summary = make_run(private=True)
    summary["privacy"]["claimed"] = False
    text = printed(summary, tmp_path)
    assert "2.89" not in text
    assert "no privacy is claimed: noise was seeded" in text
    del summary["privacy"]["claimed"]
    assert "2.89" not in printed(summary, tmp_path), "silence is no claim"


def test_binary_shows_auc_instead_of_accuracy(make_run: Callable[..., Any], tmp_path: Path) -> None:
    text = printed(make_run(binary=True)[1], tmp_path)
    assert row(text, "site-02")[2:4] == ["0.791", "0.801"]
    assert row(text, "all")[2:4] == ["0.832", "0.876"]
    assert "AUC" in text and "accuracy" not in text.split("dense / sent")[0]


def test_an_exceeded_budget_is_said(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run()
    summary["privacy"]["sites"]["site-02"]["epsilon"]["pld"] = 3.0001
    text = printed(summary, tmp_path)
    assert "3.01 / 3.00" in text
    assert "the privacy budget is exceeded at site-02" in text


def test_names_cannot_forge_colours_or_push_figures_out(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    _, summary = make_run()
    summary["sites"] = ["[bold]a[/bold]", "b\x1b[2J\u202e", "c" * 300]
    text = printed(summary, tmp_path)
    assert "[bold]a[/bold]" in text
    assert "\x1b" not in text and "\u202e" not in text
    assert "0.022 MB" in text and "at most 2.89" in text
    assert max(map(len, text.splitlines())) <= 80


def test_many_sites_are_a_distribution(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run(private=True)
    names = [f"site-{i:04}" for i in range(1001)]
    summary["sites"] = names
    summary["accuracy"]["by_site"] = {
        name: {"shallow": i / 1000, "deep": 1 - i / 1000, "records": 5 + i}
        for i, name in enumerate(names)
    }
    text = printed(summary, tmp_path)
    assert "site-0" not in text and len(text.splitlines()) < 25
    assert row(text, "lowest")[1:] == ["5", "0.0", "%", "0.0", "%"]
    assert row(text, "1/4 at most")[-5:] == ["255", "25.0", "%", "25.0", "%"]
    assert row(text, "median")[1:] == ["505", "50.0", "%", "50.0", "%"]
    assert row(text, "highest")[1:] == ["1,005", "100.0", "%", "100.0", "%"]
    assert max(map(len, text.splitlines())) <= 80


def test_what_all_is_measured_on_is_said(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run(private=False)
    text = " ".join(printed(summary, tmp_path).split())
    assert "“All” is the global test set of 360 records, which no site holds." in text
    assert "The sites are measured on their own 108 held-out records." in text
    _, summary = make_run(private=False, binary=True)
    summary["accuracy"] |= {"of": "sites", "records": 108}
    summary["accuracy"]["by_site"]["site-02"]["records"] = 500
    del summary["auc"]["by_site"]["site-03"]
    text = " ".join(printed(summary, tmp_path).split())
    assert "over the sites' own 572 held-out records together, each counting once" in text
    assert "the mean of 2 sites, in which one with 35 records counts like one with 500" in text
    assert "as all their records are of one class: 1." in text


def test_the_accuracy_is_told_where_the_columns_are_an_auc(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    told = "The accuracy is 87.4 % shallow, 91.4 % deep."
    assert "The accuracy is" not in printed(make_run(private=False)[1], tmp_path)
    _, summary = make_run(private=False, binary=True)
    assert told in " ".join(printed(summary, tmp_path).split())
    summary["model"]["costs"] = {"network": {"parameters": 5, "macs": 4}}
    del summary["accuracy"]["shallow"], summary["auc"]["shallow"]
    assert "The accuracy is 91.4 %. " in " ".join(printed(summary, tmp_path).split())


def test_files_and_next_command(make_run: Callable[..., Any], tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 30)
    directory.mkdir()
    (directory / "report.html").write_text("x")
    command = "fedlite predict runs/quickstart/bundle INPUT --with a-rather-long-option that-is-one"
    text = printed(make_run()[1], directory, next_command=command)
    assert str(directory / "report.html") in text, "a path is not broken over lines"
    assert "model.safetensors" not in text, "only what is there is named"
    assert f"Next: {command}" in text.splitlines()


def test_json_is_one_object_with_finite_figures(make_run: Callable[..., Any]) -> None:
    _, summary = make_run()
    assert json.loads(as_json(summary)) == summary
    summary["cpu_seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        as_json(summary)


def test_what_was_not_measured_is_said(make_run: Callable[..., Any], tmp_path: Path) -> None:
    _, summary = make_run(private=True)
    summary |= {"accuracy": {"by_site": {}}, "data": {"name": "csv", "at_sites": True}}
    text = printed(summary, tmp_path)
    assert "no accuracy was measured: the coordinator holds no records\n" in text
    assert row(text, "site-01") == ["site-01", "-", "-", "-", "2.89", "/", "3.00"]


def test_a_run_that_ended_as_budgets_were_spent_says_so(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    _, summary = make_run()
    summary |= {"rounds": 5, "planned_rounds": 12}
    for site in summary["privacy"]["sites"].values():
        site["out_of_budget"] = True
    text = " ".join(printed(summary, tmp_path).split())
    assert "Stopped because its own privacy budget was spent: site-01, site-02, site-03." in text
    assert "The run ended after 5 of 12 planned rounds" in text
