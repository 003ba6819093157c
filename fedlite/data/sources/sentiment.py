"""Sentences of four domains, and how positive people found them (Hutto and Gilbert, ICWSM 2014).

A natural federation of texts: reviews of films, editorials, tweets, reviews of products. They
travel in an archive inside the source archive of vaderSentiment 3.3.2; its wheel lacks them. Each
has a score from -4 to 4, the mean of twenty people; one of at least 0.5 either way is positive or
negative here, and what lies between is left out.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from fedlite.data.cache import cache_folder, locked, read_cached, verify
from fedlite.data.dataset import Source
from fedlite.data.entry import Entry
from fedlite.data.text.reading import records
from fedlite.data.wheels import Package, download
from fedlite.scenario.texts import LANGUAGE, NLL, Texts
from fedlite.storage import write_atomic

NAME = "sentiment"
PACKAGE = Package(
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
DOMAINS = {
    "movie": "movieReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
    "amazon": "amazonReviewSnippets",
}
LABELS = ("negative", "positive")
LEAST = 0.5
# No member of either archive that is read is longer.
_LONGEST = 4 << 20


def _path() -> Path:
    return cache_folder() / NAME / PACKAGE.file


def available() -> bool:
    """Say whether the archive is in the cache."""
    return _path().is_file()


def fetch() -> Path:
    """Return the path of the verified archive, fetching it with pip into the cache where needed.

    Raises ConnectionError telling what pip answered, ValueError when what it brought is not what is
    pinned.
    """
    target = _path()
    with locked(target.parent):
        if target.is_file():
            try:
                verify(target.read_bytes(), PACKAGE.sha256, name=NAME, path=target)
                return target
            except ValueError:
                target.unlink()
        write_atomic(target, download(PACKAGE, target.parent, name=NAME))
    return target


def member(packed: bytes, name: str) -> bytes:
    """Return one plain file of a .tar.gz, of at most 4 MB; nothing is written anywhere.

    Raises ValueError where it is not there, is a link or a folder, or is longer.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            about = archive.getmember(name)
            file = archive.extractfile(about) if about.isreg() else None
            if file is None or about.size > _LONGEST:
                raise ValueError(f"{name}: must be a plain file of at most {_LONGEST} bytes")
            return file.read(_LONGEST)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{name}: is not in the archive ({error})") from error


def sentences() -> list[tuple[str, str, float]]:
    """Return every sentence of the data set, as domain, text and score, in the order of the files.

    Raises ValueError when the archive is missing or altered.
    """
    path = _path()
    packed = verify(read_cached(path, name=NAME), PACKAGE.sha256, name=NAME, path=path)
    inner = verify(member(packed, ARCHIVE), ARCHIVE_SHA256, name=NAME, path=path)
    found = []
    for domain, name in DOMAINS.items():
        lines = member(inner, f"hutto_ICWSM_2014/{name}_GroundTruth.txt").decode("utf-8")
        for line in lines.split("\r\n"):
            if line:
                _, score, text = line.split("\t")
                found.append((domain, text.strip(), float(score)))
    return found


def load(*, texts: Texts, task: str = "classification") -> Source:
    """Return the sentences with a clear sentiment as tokens, grouped by domain; no test set.

    The label is 1 where it is positive; with the task `causal-lm` a sentence is its own answer.
    Raises ValueError when the archive is missing or altered, and as `records` does.
    """
    chosen = [one for one in sentences() if abs(one[2]) >= LEAST]
    names = tuple(DOMAINS)
    owners = np.array([names.index(domain) for domain, _, _ in chosen], np.int64)
    y = np.array([score > 0 for _, _, score in chosen], np.int64)
    made = records([text for _, text, _ in chosen], y, texts, owners=owners, task=task, where=NAME)
    labels = (NLL,) if task == LANGUAGE else LABELS
    return Source(
        name=NAME,
        train=made.data,
        test=None,
        groups=owners[made.kept],
        group_names=names,
        shape=texts.shape,
        classes=len(labels),
        labels=labels,
        origin=f"{PACKAGE.file}!{ARCHIVE}, sha256:{PACKAGE.sha256}",
        notes=made.notes,
    )


def survey(path: str, target: str, *, lenient: bool = False) -> tuple[int, int, tuple[str, ...]]:
    """Return how many records, classes and domains there are, which need no tokenizer."""
    count = sum(abs(score) >= LEAST for _, _, score in sentences())
    return count, len(LABELS), tuple(DOMAINS)


ENTRY = Entry(
    name=NAME,
    what="sentences, positive or negative, 4 domains; needs the extra `lora`",
    records=19_459,
    licence="MIT (vaderSentiment), cite Hutto and Gilbert 2014; the texts are of their authors",
    size=2_466_783,
    how=f"pip download {PACKAGE.requirement}, its source archive, read and never installed",
    load=load,
    fetch=fetch,
    available=available,
    takes=("texts", "task"),
    survey=survey,
)
