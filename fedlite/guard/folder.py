"""A site's own folder: policy, keys and ledgers, which outlive every run and every server.

```
HOME/site.toml               what the site allows (fedlite.guard.policy)
HOME/keys/ledger.pem         signs the rows of its ledgers; never leaves the site
HOME/keys/data.secret        makes the commitment to the data set unguessable
HOME/ledgers/DATASET.jsonl   what has been spent on that data set
HOME/ledgers/RUN.counts      the digest of the counts told in a run without privacy
```
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from fedlite.data import Dataset
from fedlite.guard import policy, policy_file
from fedlite.guard.policy import SitePolicy
from fedlite.identity import keys


@dataclass(frozen=True)
class Home:
    """Where one site keeps what must outlive a run. `dataset` names the data that runs train on."""

    path: Path
    site: str
    dataset: str

    @property
    def ledger(self) -> Path:
        """The ledger of this data set."""
        return self.ledgers / f"{self.dataset}.jsonl"

    @property
    def ledgers(self) -> Path:
        """The folder of all its ledgers: a person may appear in several data sets."""
        return self.path / "ledgers"

    def told(self, run: str) -> Path:
        """Return where the digest of the counts of a run is, 64 hex digits."""
        return self.ledgers / f"{run}.counts"

    def policy(self) -> SitePolicy:
        """Return the policy for this data set as the file says it now; raises ValueError."""
        return policy.for_data(policy.load(self.path / "site.toml"), self.dataset)

    def key(self) -> keys.Key:
        """Return the key that signs the ledgers, made when there is none."""
        return keys.load_or_generate(self.path / "keys" / "ledger.pem")

    def commitment(self, data: Dataset) -> str:
        """Return a commitment to exactly these records, HMAC-SHA256 in hex.

        Whoever gets the secret from the data's owner can check it; nobody else learns anything,
        not even whether two sites hold the same records.
        """
        secret = keys.secret(self.path / "keys" / "data.secret")
        return hmac.new(secret, data.digest(), hashlib.sha256).hexdigest()


def open_home(path: Path, site: str, dataset: str, default: SitePolicy) -> Home:
    """Return the home at `path`; `default` is written as its site.toml when it has none."""
    home = Home(path, site, dataset)
    if not (path / "site.toml").exists():
        path.mkdir(parents=True, exist_ok=True)
        policy_file.write(path / "site.toml", default)
    return home
