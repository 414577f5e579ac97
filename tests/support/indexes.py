"""Indexes of triggers, and the events of generated cases."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.event import Event
from agent.core.index import ServedDirectory
from agent.core.trigger import parse
from agent.core.unit import Implementation, Registration, Unit
from agent.rpc import question
from agent.rpc.messages import LookupParams
from support.cases import Case


def events(case: Case) -> list[Event] | None:
    """The event of a case and those that occurred, as its owner sees them; None if refused."""
    request = {"event": case.event, "occurred": case.occurred}
    if case.owner is not None:
        request["owner"] = case.owner
    try:
        asked = question.of(msgspec.convert(request, LookupParams), lambda: None)
    except (msgspec.ValidationError, question.BadText):
        return None
    return [asked.event, *asked.occurred]


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
