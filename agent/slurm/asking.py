"""Asks the agent which callbacks fire on an event, for all jobs that could be concerned.

Universal callbacks belong to every job. An event concerns its own job, those that name it as their
parent, and those of its process group: for these it has a context of their own. To all others it
looks the same: only a trigger with any context, or with the id of the event's job, matches it. So
these are asked for as one owner of whom nothing is known, and the answer holds for each of them. A
job with pending callbacks is asked for by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.client import AgentError, Client, Refused
from agent.core.trigger import parse, terms
from agent.slurm.known import Event, Job, Known
from agent.slurm.store import Pending

#: Seconds that the agent may take for one answer: it refuses by itself what takes more than 20 s.
TIMEOUT = 30.0
#: The most owners of one request (the agent takes 10,000), and characters of JSON (it takes 1 MiB).
MAX_OWNERS = 5000
MAX_CHARACTERS = 500_000

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What one event does: callbacks that fire, and what others still wait for."""

    #: By owner, in the order in which the callbacks are to run.
    fires: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    #: Owner, path, trigger, and what is missing.
    partial: list[tuple[int, str, str, str]] = field(default_factory=list)

    def add(
        self,
        owner: int,
        fires: Iterable[Mapping[str, Any]],
        partial: Iterable[tuple[str, str, str]],
    ) -> None:
        """Add what the event does for an owner."""
        self.fires.extend((owner, callback) for callback in fires)
        self.partial.extend((owner, *what) for what in partial)


class Agent:
    """The agent at a pipe. Every method raises AgentError if it does not answer."""

    def __init__(self, pipe: str) -> None:
        # The caller waits for the agent itself, as it has other work to do.
        self._client = Client(pipe, TIMEOUT, restart=0)

    def check(self) -> None:
        """Raise AgentError if it does not answer."""
        self._client.status()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, event: Event, job: Job, known: Known, pending: Pending) -> Found:
        """What an event of a job does. Raises Refused if the agent refuses the event."""
        living = known.living_groups()
        concerned = {
            one.id: _owner(one, pending)
            for one in known.jobs.values()
            if one.pgrp == job.pgrp
            or one.parent == job.id
            or (one.pgrp in living and pending.get(one.id))
        }
        found = Found()
        for owner, fires, partial in self._ask(event, job, [*concerned.values(), {}]):
            if owner is not None:
                found.add(owner, fires, partial)
            elif fires or partial:
                for one in known.jobs.values():
                    if one.pgrp in living and one.id not in concerned:
                        found.add(one.id, fires, partial)
        return found

    def ask_one(self, event: Event, parent: Job, child: Job, pending: Pending) -> Found:
        """What an earlier event of a job does to another that turned out to be its child: only
        callbacks whose trigger names the parent. The others saw the event then."""
        found = Found()
        for _, fires, partial in self._ask(event, parent, [_owner(child, pending)]):
            found.add(
                child.id,
                [callback for callback in fires if _names_parent(callback["trigger"])],
                [what for what in partial if _names_parent(what[1])],
            )
        return found

    @staticmethod
    def asked(event: Event, job: Job) -> JsonObject:
        """An event as the agent wants it."""
        found: JsonObject = {"name": event.name, "type": event.type, "job": job.as_owner()}
        if event.extra is not None:
            found["extra"] = event.extra
        return found

    def _ask(
        self, event: Event, job: Job, owners: list[JsonObject]
    ) -> Iterator[tuple[int | None, list[Mapping[str, Any]], list[tuple[str, str, str]]]]:
        """For each owner, in order: its id, the callbacks that fire, and path, trigger and what is
        missing of those that are partial."""
        asked: Any = self.asked(event, job)
        for window in _windows(owners):
            given: Any = window
            answer = self._client.lookup(asked, owners=given, code=True)
            callbacks = answer["callbacks"]
            for owner, result in zip(window, answer["owners"], strict=True):
                partial = []
                for one in result["partial"]:
                    callback = callbacks[one["callback"]]
                    partial.append((callback["path"], callback["trigger"], one["missing"]))
                yield owner.get("id"), [callbacks[at] for at in result["fires"]], partial


def _owner(job: Job, pending: Pending) -> JsonObject:
    owner = job.as_owner()
    if waits := pending.get(job.id):
        owner["pending"] = [
            {"path": path, "trigger": trigger, "missing": missing}
            for (path, trigger), missing in waits.items()
        ]
    return owner


def _names_parent(trigger: str) -> bool:
    tree, _ = parse(trigger)
    return tree is not None and any(term.context == "parent" for term in terms(tree))


def _windows(owners: list[JsonObject]) -> Iterator[list[JsonObject]]:
    """The owners in groups that one request can hold."""
    window: list[JsonObject] = []
    size = 0
    for owner in owners:
        more = len(json.dumps(owner))
        if window and (len(window) == MAX_OWNERS or size + more > MAX_CHARACTERS):
            yield window
            window, size = [], 0
        window.append(owner)
        size += more
    yield window


__all__ = ["Agent", "AgentError", "Found", "Refused"]
