"""What a kit's README says: five steps, with the commands of the role."""

from __future__ import annotations

import fedlite
from fedlite.deployment.container import Role

PROGRAM = "/opt/fedlite/bin/fedlite"
USER = "fedlite"
BASE = "/var/lib/fedlite"

_MAKE = {
    "site": """\
   fedlite() {{ sudo -u {user} {program} "$@"; }}
   fedlite site init {home} \\
       --name NAME --data csv --path FILE.csv --target COLUMN --epsilon 3
   fedlite site join {home} \\
       INVITATION
   Send {home}/request.json to the coordinator's operator,
   and read to him on the telephone the node key that join printed.""",
    "coordinator": """\
   sudo apt install nginx-light
   fedlite() {{ sudo -u {user} {program} "$@"; }}
   fedlite server init {home} \\
       --name NAME --address HOST:8443
   Send {home}/invitation.json to the sites, and
   read to them on the telephone the fingerprint that init printed.""",
}
_LOOK = {
    "site": "fedlite site doctor {home}",
    "coordinator": "fedlite server status {home}",
}
_INSIDE = {
    "site": "site init /site --name NAME ...",
    "coordinator": "server init /coordinator ...",
}


def home(role: Role) -> str:
    """Return where the kit's unit looks for the folder that the role serves."""
    return f"{BASE}/{role.name}"


def readme(role: Role, python: str, machine: str, get: str) -> str:
    """Return the text. get: the command that gets the wheels that are missing, if any are."""
    head = f"fedlite {fedlite.__version__}: a {role.name}, for Python {python} on {machine}\n"
    if get:
        return f"""\
{head}
Not complete yet: the wheels of what fedlite needs are missing. Where there is
a network, with the same Python and processor as here:

   {get}

Then make this kit again with --wheels WHEELS.
"""
    place = {"program": PROGRAM, "home": home(role), "user": USER}
    return f"""\
{head}
There is no secret in this folder, and no Python package is fetched.

1. Check it

   sha256sum --check --quiet SHA256SUMS
   find . ! -type d ! -path ./SHA256SUMS -printf '%P\\n' |
       grep -vxF "$(cut -c67- SHA256SUMS)"
   sha256sum SHA256SUMS

   The first two must print nothing: no file was changed, and none added.
   Compare what the third prints with what its sender reads to you.

2. Install it, as a user of its own

   sudo useradd --system --create-home --home-dir {BASE} {USER}
   sudo python{python} -I -m venv /opt/fedlite
   sudo /opt/fedlite/bin/pip install --no-index --find-links wheels \\
       --require-hashes --requirement requirements.txt

3. Make it

{_MAKE[role.name].format(**place)}

4. Start it, and at every boot

   sudo cp fedlite-{role.name}.service /etc/systemd/system/
   sudo systemctl enable --now fedlite-{role.name}

5. Look at it

   {_LOOK[role.name].format(**place)}

In a container instead of 2 to 4
   mkdir -m 700 {role.name}
   export FEDLITE_USER=$(id -u):$(id -g)
   docker compose build
   docker compose run --rm {role.name} fedlite {_INSIDE[role.name]}
   docker compose up --detach
"""
