"""Makes an index from what the agent answered to `list`. It gives the same answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agent.core import trigger
from agent.core.index import Callback, Index, ServedDirectory
from agent.core.trigger import Trigger
from agent.core.unit import Implementation, Registration


def index(result: Mapping[str, Any], before: Index | None = None) -> Index:
    """The index of a result of `list`, without the code of the callbacks: see `with_code`.

    `before` is an older index: its triggers are not parsed again. Raises LookupError, TypeError or
    ValueError if this is not such a result.
    """
    trees: dict[str, Trigger] = {}
    if before is not None:
        trees = {c.registration.text: c.registration.trigger for c in before.callbacks()}
    made = Index.of(result["generation"], directories(result["callbacks"], trees))
    return replace(made, digest=result["digest"], held=tuple(result.get("held", ())))


def directories(
    callbacks: Iterable[Mapping[str, Any]], trees: dict[str, Trigger] | None = None
) -> list[ServedDirectory]:
    """The directories of the callbacks of a result of `list`, without code.

    `trees` are triggers that are parsed already, by their text; others are added. Raises
    LookupError, TypeError or ValueError if they do not have the form of callbacks.
    """
    trees = {} if trees is None else trees
    by_directory: dict[str, list[Callback]] = {}
    for one in callbacks:
        directory = one["directory"]
        callback = Callback(
            directory,
            registration(one, trees),
            Implementation(b"", one["digest"]),
            one["language"],
            one["enabled"],
        )
        by_directory.setdefault(directory, []).append(callback)
    return [ServedDirectory(path, tuple(found)) for path, found in by_directory.items()]


def registration(callback: Mapping[str, Any], trees: dict[str, Trigger]) -> Registration:
    """The line that registered a callback of a result of `list`. `trees`, and what is raised, as
    for `directories`."""
    text = callback["trigger"]
    tree = trees.get(text)
    if tree is None:
        tree, _ = trigger.parse(text)
        if tree is None:
            raise ValueError(f"{text} is not a trigger")
        trees[text] = tree
    return Registration(callback["file"], tree, text, callback["line"])


def with_code(without: Index, code: Mapping[str, Implementation]) -> Index:
    """The same index with the code of its callbacks, by digest. Raises KeyError if some is not
    there."""
    served = tuple(
        replace(
            one,
            callbacks=tuple(
                c._replace(implementation=code[c.implementation.digest]) for c in one.callbacks
            ),
        )
        for one in without.served
    )
    return replace(without, served=served)
