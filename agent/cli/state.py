"""The commands that show what the agent serves and how it is: `list`, `status`, `reload`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from agent.cli import rendering
from agent.cli.asking import show
from agent.cli.options import code_option, json_option, pipe_option
from agent.cli.output import paint
from agent.cli.rendering import JsonObject

#: Seconds that `reload` waits. It may have to wait until a writer has finished, and read 100
#: directories from a slow server.
RELOAD_TIMEOUT = 120.0


@click.command("list")
@code_option
@json_option
@pipe_option
def list_(code: bool, as_json: bool, pipe: str | None) -> int:
    """Show every callback that is served."""

    def rows(answer: JsonObject) -> Iterator[str]:
        lines = [(rendering.columns(c), "", c) for c in answer["callbacks"]]
        yield from rendering.table(lines, paint)

    nothing = "no callbacks are served"
    return show(lambda agent: agent.list(code), rows, pipe, as_json, nothing=nothing)


@click.command()
@json_option
@pipe_option
def status(as_json: bool, pipe: str | None) -> int:
    """Show the agent's health, directories, settings and last reload.

    Exit status: 0 ok, 1 degraded.
    """
    return show(
        lambda agent: agent.status(),
        lambda answer: rendering.health(answer, paint),
        pipe,
        as_json,
        status=lambda answer: 0 if answer["state"] == "ok" else 1,
    )


@click.command()
@json_option
@pipe_option
def reload(as_json: bool, pipe: str | None) -> int:
    """Read everything again, now, and show the record of it.

    When it returns, every earlier change is served or held. Exit status: 0 nothing is held, 1
    something is.
    """
    return show(
        lambda agent: agent.reload(),
        rendering.record_lines,
        pipe,
        as_json,
        status=lambda record: 1 if record["held"] else 0,
        timeout=RELOAD_TIMEOUT,
    )
