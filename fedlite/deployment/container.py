"""The container of a site and of a coordinator: Dockerfile and compose file.

The image is built from a kit (`fedlite.deployment.kit`) and fetches no Python package. What it
serves lies outside it, in a folder that is mounted.
"""

from __future__ import annotations

from dataclasses import dataclass

import fedlite


@dataclass(frozen=True)
class Role:
    """What a container does.

    folder: where in it the served folder is mounted. command: what it runs. environment: what that
    finds there. healthy: a shell command that succeeds as long as all is well. packages: Debian's,
    with the program that each brings. port: the one that it listens on inwards, if any. cores,
    tasks: the bounds of processors, and of processes and threads.
    """

    name: str
    folder: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    healthy: str
    cores: int
    tasks: int
    packages: tuple[tuple[str, str], ...] = ()
    port: int | None = None


SITE = Role(
    name="site",
    folder="/site",
    command=("fedlite", "site", "start", "/site"),
    # The register must outlive the container.
    environment=(("FEDLITE_CACHE", "/site/cache"), ("FEDLITE_REGISTER", "/site/register")),
    healthy="fedlite site status /site --json | grep -q '\"running\": true'",
    cores=2,
    tasks=256,
)
COORDINATOR = Role(
    name="coordinator",
    folder="/coordinator",
    command=("fedlite", "server", "start", "--foreground"),
    environment=(
        ("FEDLITE_CACHE", "/coordinator/cache"),
        ("FEDLITE_COORDINATOR_DIR", "/coordinator"),
    ),
    healthy="fedlite server status --json | grep -q '\"answers\": true'",
    cores=4,
    tasks=512,
    packages=(("nginx-light", "nginx"),),
    port=8443,
)


def dockerfile(role: Role, python: str) -> str:
    """Return a Dockerfile for a kit's folder; `python`: the wheels' version, such as "3.11"."""
    fetched = "".join(
        f"""\
# The one thing that wheels/ does not hold. A BASE that has it fetches nothing.
RUN command -v {program} > /dev/null || (apt-get update \\
 && apt-get install --yes --no-install-recommends {package} \\
 && rm -rf /var/lib/apt/lists/*)
"""
        for package, program in role.packages
    )
    return f"""\
# A fedlite {fedlite.__version__} {role.name}; in this folder:
#   docker build --tag fedlite-{role.name} .
# No Python package is fetched: all are in wheels/, each compared with its hash.
# Another base, such as one by its digest: --build-arg BASE=NAME@sha256:...
ARG BASE=python:{python}-slim

FROM ${{BASE}} AS build
COPY requirements.txt /kit/
COPY wheels/ /kit/wheels/
RUN python -m venv /opt/fedlite \\
 && /opt/fedlite/bin/pip install --no-cache-dir --no-index \\
    --find-links /kit/wheels --require-hashes --requirement /kit/requirements.txt

FROM ${{BASE}}
{fetched}COPY --from=build /opt/fedlite /opt/fedlite
ENV PATH=/opt/fedlite/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
CMD {_list(role.command)}
"""


def compose(role: Role, *, build: str, user: str, volume: str, port: int | None = None) -> str:
    """Return a compose file. build: the folder of the kit. user: whose the mounted folder is.

    volume: that folder on the host. port: on the host and in the container; None: the role's.
    """
    port = port or role.port
    environment = "\n".join(f"      {key}: {value}" for key, value in role.environment)
    # A coordinator holds a connection for every site.
    ports = f'    ports: ["{port}:{port}"]\n    ulimits: {{nofile: 16384}}\n' if port else ""
    return f"""\
# Start:      docker compose up --detach --build
# A command:  docker compose exec {role.name} {role.command[0]} {role.command[1]} --help
services:
  {role.name}:
    build: "{build}"
    image: fedlite-{role.name}:{fedlite.__version__}
    command: {_list(role.command)}
    environment:
{environment}
      HOME: /tmp
    # The owner of the folder, as its keys are for him alone.
    user: "{user}"
    volumes: ["{volume}:{role.folder}"]
{ports}    healthcheck:
      test: ["CMD-SHELL", {_quoted(role.healthy)}]
      interval: 60s
      timeout: 30s
      start_period: 120s
      retries: 3
    # What is beyond it is ended, and does not take the machine with it.
    mem_limit: "${{FEDLITE_MEMORY:-8g}}"
    pids_limit: {role.tasks}
    # Microseconds of processor time in each 100,000: {role.cores} processors.
    cpu_quota: {role.cores}00000
    restart: unless-stopped
    init: true
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    stop_grace_period: 60s
    logging:
      driver: local
"""


def _list(words: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
