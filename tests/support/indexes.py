"""Indexes of triggers, and the events of generated cases."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.event import Event
from agent.core.index import ServedDirectory
from agent.core.trigger import parse
from agent.core.unit import Implementation, Registration, Unit
from agent.rpc import results as answers
from agent.rpc.messages import LookupParams
from support.cases import Case


def events(case: Case) -> list[Event] | None:
    """The event of a case and those that occurred, as its owner sees them; None if refused."""
    request = {"event": case.event, "occurred": case.occurred}
    if case.owner is not None:
        request["owner"] = case.owner
    try:
        event, occurred = answers.events(msgspec.convert(request, LookupParams))
    except (msgspec.ValidationError, answers.BadEvent):
        return None
    return [event, *occurred]


def unit(triggers: Sequence[str]) -> Unit:
    registrations = []
    for line, text in enumerate(triggers, 1):
        tree, problems = parse(text)
        assert tree is not None, (text, problems)
        registrations.append(Registration(f"{line}.py", tree, str(tree), line))
    code = Implementation.of(b"pass\n")
    return Unit(tuple(registrations), {r.file: code for r in registrations})


def served(triggers: Sequence[str], directory: str = "/d") -> ServedDirectory:
    return ServedDirectory.of(directory, unit(triggers), frozenset({"python"}))
