"""What completes the value of an argument or option, as click's `shell_complete` wants it.

A function takes the context, the parameter and the text that was typed so far, and returns items
that begin with this text. An item of type PART goes on: the shell adds no space after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The type of an item after which more of the same word may follow.
PART = "part"
#: Seconds that a key press waits for the agent. One that is well answers in milliseconds.
AGENT_TIMEOUT = 0.5

Items = list["CompletionItem[str]"]


def files(_: click.Context, __: click.Parameter, typed: str) -> Items:
    """Any file: the shell itself lists them."""
    return [_item(typed, "file")]


def directories(_: click.Context, __: click.Parameter, typed: str) -> Items:
    """Any directory: the shell itself lists them."""
    return [_item(typed, "dir")]


def directory_list(context: click.Context, parameter: click.Parameter, typed: str) -> Items:
    """Directories separated by commas: the last of them is completed."""
    before, comma, last = typed.rpartition(",")
    if not comma:
        return directories(context, parameter, typed)
    folder, slash, name = last.rpartition("/")
    try:
        with os.scandir(folder + slash or ".") as entries:
            found = sorted(e.name for e in entries if e.name.startswith(name) and e.is_dir())
    except OSError:
        return []
    return _items((f"{before},{folder}{slash}{entry}/" for entry in found), typed, PART)


def events(_: click.Context, __: click.Parameter, typed: str) -> Items:
    """An event, field by field: its name, its type, `self` or `parent`. Sites have other names."""
    from agent.core.event import NAMES, TYPES

    name, hyphen, rest = typed.partition("-")
    if not hyphen:
        return _items((f"{known}-" for known in sorted(NAMES)), typed, PART)
    kind, hyphen, _context = rest.partition("-")
    if not hyphen:
        return _items((f"{name}-{known}-" for known in TYPES), typed, PART)
    row = TYPES.get(kind)
    if row is None:
        return []
    whole = [f"{name}-{kind}-{context}" for context in ("self", "parent")]
    if row.extra is None:
        return _items(whole, typed)
    # What follows is free text.
    return [
        item for item in _items((f"{one}-" for one in whole), typed, PART) if item.value != typed
    ]


def pages(_: click.Context, __: click.Parameter, typed: str) -> Items:
    """The topics of the manual and the finding codes."""
    from agent import manual

    about = {**dict.fromkeys(manual.codes()), **manual.topics()}
    return [_item(name, about=text) for name, text in about.items() if name.startswith(typed)]


def served(context: click.Context, _: click.Parameter, typed: str) -> Items:
    """The files that the running agent serves: by name, or by path after a `/`. None without one.

    Raises nothing.
    """
    from agent.cli.asking import ask
    from agent.cli.exits import Failed

    try:
        answer = ask(lambda agent: agent.list(), context.params.get("pipe"), AGENT_TIMEOUT)
        member = "path" if typed.startswith("/") else "file"
        found = {str(callback[member]) for callback in answer["callbacks"]}
    except (Failed, LookupError, TypeError, AttributeError):
        return []
    return _items(sorted(found), typed)


def _items(values: Iterable[str], typed: str, kind: str = "plain") -> Items:
    return [_item(value, kind) for value in values if value.startswith(typed)]


def _item(value: str, kind: str = "plain", about: str | None = None) -> CompletionItem[str]:
    # Imported late: commands that are run do not need it.
    from click.shell_completion import CompletionItem

    return CompletionItem(value, type=kind, help=about)
