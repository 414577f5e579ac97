"""Asks the agent which callbacks fire on an event, for all jobs that could be concerned.

Universal callbacks belong to every job. An event concerns its own job, those that name it as their
parent, and those of its process group. Only if a trigger that is served names any context, or the
id of this job, it concerns all other living jobs too. The triggers are asked for once for each
digest of the index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.client import AgentError, Client, Refused
from agent.core.event import is_id
from agent.core.trigger import parse, terms
from agent.slurm.jobs import Event, Job, Known
from agent.slurm.store import Pending

#: Seconds that the agent may take for one answer: it refuses by itself what takes more than 20 s.
TIMEOUT = 30.0
#: The most owners of one request (the agent takes 10,000), and characters of JSON (it takes 1 MiB).
MAX_OWNERS = 5000
MAX_CHARACTERS = 500_000
#: How often an event is asked for again when the index changed meanwhile.
_ATTEMPTS = 10

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What one event does: callbacks that fire, and what others still wait for."""

    #: By owner, in the order in which the callbacks are to run.
    fires: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    #: Owner, path, trigger, and what is missing.
    partial: list[tuple[int, str, str, str]] = field(default_factory=list)


class Agent:
    """The agent at a pipe. Both methods raise AgentError if it does not answer."""

    def __init__(self, pipe: str) -> None:
        # The caller waits for the agent itself, as it has other work to do.
        self._client = Client(pipe, TIMEOUT, restart=0)
        self._digest = ""
        #: Types of events that a trigger names with any context.
        self._any: set[str] = set()
        #: Ids of jobs that triggers name.
        self._ids: set[str] = set()

    def check(self) -> None:
        """Raise AgentError if it does not answer."""
        self._learn()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, event: Event, job: Job, known: Known, pending: Pending) -> Found:
        """What an event of a job does. Raises Refused if the agent does not take the event."""
        asked: Any = self.asked(event, job)
        for _ in range(_ATTEMPTS):
            concerned = self._concerned(event, job, known)
            answers = []
            for owners in _windows(concerned, pending):
                answer = self._client.lookup(asked, owners=owners, code=True)
                answers.append((owners, answer))
                if answer["digest"] != self._digest:
                    break
            else:
                return _found(answers)
            self._learn()
        raise AgentError("the callbacks change with every question")

    def ask_one(self, event: Event, parent: Job, child: Job, pending: Pending) -> Found:
        """What an earlier event of a job does to another that turned out to be its child: only
        callbacks whose trigger names the parent. The others saw the event then."""
        asked: Any = self.asked(event, parent)
        (owners,) = _windows([child], pending)
        answer = self._client.lookup(asked, owners=owners, code=True)
        found = _found([(owners, answer)])
        return Found(
            [one for one in found.fires if _names_parent(one[1]["trigger"])],
            [one for one in found.partial if _names_parent(one[2])],
        )

    @staticmethod
    def asked(event: Event, job: Job) -> JsonObject:
        """An event as the agent wants it."""
        found: JsonObject = {"name": event.name, "type": event.type, "job": job.as_owner()}
        if event.extra is not None:
            found["extra"] = event.extra
        return found

    def _concerned(self, event: Event, job: Job, known: Known) -> list[Job]:
        """The owners, the event's own job first."""
        others = [one for one in known.jobs.values() if one is not job]
        if event.type in self._any or str(job.id) in self._ids:
            living = known.living_groups() | {job.pgrp}
            return [job, *(one for one in others if one.pgrp in living or one.parent == job.id)]
        return [job, *(one for one in others if one.pgrp == job.pgrp or one.parent == job.id)]

    def _learn(self) -> None:
        """Ask for the triggers that are served now."""
        answer = self._client.list()
        if answer["digest"] == self._digest:
            return
        self._any, self._ids = set(), set()
        for text in {callback["trigger"] for callback in answer["callbacks"]}:
            tree, _ = parse(text)
            for term in terms(tree) if tree else ():
                if term.context == "*":
                    self._any.add(term.type)
                elif term.context and is_id(term.context):
                    self._ids.add(term.context)
        self._digest = answer["digest"]


def _names_parent(trigger: str) -> bool:
    tree, _ = parse(trigger)
    return tree is not None and any(term.context == "parent" for term in terms(tree))


def _windows(jobs: list[Job], pending: Pending) -> Iterator[list[Any]]:
    """The owners in groups that one request can hold."""
    window: list[JsonObject] = []
    size = 0
    for job in jobs:
        owner = job.as_owner()
        if waits := pending.get(job.id):
            owner["pending"] = [
                {"path": path, "trigger": trigger, "missing": missing}
                for (path, trigger), missing in waits.items()
            ]
        more = len(json.dumps(owner))
        if window and (len(window) == MAX_OWNERS or size + more > MAX_CHARACTERS):
            yield window
            window, size = [], 0
        window.append(owner)
        size += more
    yield window


def _found(answers: list[tuple[list[Any], Any]]) -> Found:
    found = Found()
    for owners, answer in answers:
        callbacks = answer["callbacks"]
        for owner, result in zip(owners, answer["owners"], strict=True):
            number = owner["id"]
            found.fires.extend((number, callbacks[place]) for place in result["fires"])
            for one in result["partial"]:
                callback = callbacks[one["callback"]]
                found.partial.append(
                    (number, callback["path"], callback["trigger"], one["missing"])
                )
    return found


__all__ = ["Agent", "AgentError", "Found", "Refused"]
