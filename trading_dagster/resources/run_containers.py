"""Containers of past runs: which of them may go, and removing those.

Belongs here: the engine's view of containers. A run's container is kept for some days after it ended, since with it
goes what says why it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker

RUN_LABEL = "dagster/run_id"
"""Label of every container that Dagster starts for a run, or for a step of one."""

CONTAINER_TAG, HOST_NAME_LENGTH = "docker/container_id", 12
"""Tag by which Dagster finds the container of a run; a container's own host name is the beginning of that id."""

ENDED = frozenset({"exited", "dead"})
"""States in which nothing of a container runs, or will without being started again."""

ENGINE_SECONDS = 30


class EngineError(RuntimeError):
    """An engine that does not answer, or does not do what is asked of it."""


@dataclass(frozen=True)
class RunContainer:
    """A container as the engine describes it.

    Attributes
    ----------
    identity, name, state : str
        State in the engine's words: created, running, paused, restarting, removing, exited, dead.
    ended : datetime or None
        None where it never ran.
    created : datetime
    labels : mapping of str to str
    """

    identity: str
    name: str
    state: str
    ended: datetime | None
    created: datetime
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """What a pruning did.

    Attributes
    ----------
    removed : list of RunContainer
    kept : int
        Containers with the labels that run, or ended not long enough ago.
    problems : list of str
        Containers that the engine did not remove, and why.
    """

    removed: list[RunContainer]
    kept: int
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.removed)} containers removed, {self.kept} kept"]
        lines += [
            f"  {each.name}, run {each.labels.get(RUN_LABEL, '-')}, "
            + ("never started" if each.ended is None else f"ended {each.ended:%Y-%m-%d %H:%M} UTC")
            for each in self.removed
        ]
        return "\n".join([*lines, *(f"  NOT REMOVED {problem}" for problem in self.problems)])

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "removed": [
                {
                    "name": each.name,
                    "run_id": each.labels.get(RUN_LABEL),
                    "ended": None if each.ended is None else each.ended.isoformat(timespec="seconds"),
                }
                for each in self.removed
            ],
            "kept": self.kept,
            "problems": self.problems,
        }


def label_filters(labels: Sequence[str]) -> list[str]:
    """Labels that a container must have: of a run, and those given as ``KEY=VALUE``.

    Raises
    ------
    ValueError
        If a label has no key or no value: the engine would take `KEY` alone for any value.
    """
    for label in labels:
        key, sign, value = label.partition("=")
        if not (key and sign and value):
            raise ValueError(f"label {label!r} is not KEY=VALUE, such as trading/installation=main")
    return [RUN_LABEL, *labels]


def removable(containers: Iterable[RunContainer], before: datetime) -> list[RunContainer]:
    """Containers of runs that ended before a moment, or never started and were made before it."""
    return [each for each in containers if RUN_LABEL in each.labels and _has_ended(each, before)]


def _has_ended(container: RunContainer, before: datetime) -> bool:
    if container.state == "created":
        return container.created < before
    return container.state in ENDED and container.ended is not None and container.ended < before


def prune(
    days: float,
    labels: Sequence[str],
    now: datetime | None = None,
    connect: Callable[[], docker.DockerClient] | None = None,
) -> Pruned:
    """Remove containers of runs that ended more than so many days ago; never one that runs.

    Parameters
    ----------
    days : float
    labels : sequence of str
        See `label_filters`.
    now : datetime, optional
    connect : callable, optional
        Gives the engine; that of the environment by default.

    Raises
    ------
    EngineError
        If the engine does not answer.
    """
    import docker

    filters = label_filters(labels)
    before = (now or datetime.now(UTC)) - timedelta(days=days)
    with engine(connect) as client:
        # `ignore_removed`: another may remove them at the same time
        found = client.containers.list(all=True, filters={"label": filters}, ignore_removed=True)
        containers = [_described(each.attrs) for each in found]
        old = removable(containers, before)
        removed, problems = [], []
        for each in old:
            try:
                # without force: the engine itself refuses one that was started again in the meantime
                client.api.remove_container(each.identity, v=True)
                removed.append(each)
            except docker.errors.NotFound:
                continue
            except docker.errors.APIError as error:
                problems.append(f"{each.name}: {error.explanation or error}")
    return Pruned(removed, len(containers) - len(old), problems)


@contextmanager
def engine(connect: Callable[[], docker.DockerClient] | None = None) -> Iterator[docker.DockerClient]:
    """Connect to the engine; that of the environment by default.

    Raises
    ------
    EngineError
        If it does not answer, or does not do what is asked of it.
    """
    import docker
    import requests

    try:
        client = connect() if connect else docker.from_env(timeout=ENGINE_SECONDS)
        try:
            yield client
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(
            f"the container engine does not answer: {' '.join(str(error).split())}. Is it running, and may this user "
            "reach its socket? Another engine: DOCKER_HOST"
        ) from error


def _described(attributes: Mapping[str, Any]) -> RunContainer:
    """A container out of the engine's own description of it."""
    state = attributes["State"]
    return RunContainer(
        identity=attributes["Id"],
        name=attributes["Name"].lstrip("/"),
        state=state["Status"],
        ended=_moment(state["FinishedAt"]),
        created=_moment(attributes["Created"]) or datetime.min.replace(tzinfo=UTC),
        labels=attributes["Config"]["Labels"] or {},
    )


def _moment(text: str) -> datetime | None:
    """A time as the engine writes it, to nanoseconds; the year 1 stands for none."""
    if text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text).astimezone(UTC)
