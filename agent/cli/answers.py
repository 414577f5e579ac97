"""The commands that print one answer of the agent: `list`, `metrics` and `reload`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from agent.cli import rendering, screen
from agent.cli.asking import show
from agent.cli.options import code_option, json_option, pipe_option
from agent.cli.rendering import JsonObject
from agent.core.quoting import printable

#: Seconds that `reload` waits. It may have to wait until a writer has finished, and read 100
#: directories from a slow server.
RELOAD_TIMEOUT = 120.0
#: Seconds that `metrics` waits: the agent allows 20 s for one request, after others.
METRICS_TIMEOUT = 60.0


@click.command("list")
@code_option
@json_option
@pipe_option
def list_(code: bool, as_json: bool, pipe: str | None) -> int:
    """Show every callback that is served."""

    limit = screen.width()

    def notes(answer: JsonObject) -> Iterator[str]:
        if not answer["callbacks"]:
            yield "no callbacks are served"
        yield from rendering.footnotes(answer, limit)

    return show(
        lambda agent: agent.list(code),
        lambda answer: rendering.callbacks(answer, limit),
        pipe,
        as_json,
        notes=notes,
    )


@click.command()
@json_option
@pipe_option
def metrics(as_json: bool, pipe: str | None) -> int:
    """Print what is measured, for Prometheus."""
    # A terminal must not be driven by the name of a file; a program wants the name as it is.
    safe = printable if sys.stdout is not None and sys.stdout.isatty() else str
    return show(
        lambda agent: agent.metrics(),
        lambda answer: map(safe, answer["text"].removesuffix("\n").split("\n")),
        pipe,
        as_json,
        timeout=METRICS_TIMEOUT,
    )


@click.command()
@json_option
@pipe_option
def reload(as_json: bool, pipe: str | None) -> int:
    """Read everything again, now, and show the record of it.

    When it returns, every earlier change is served or held.

    Exit status: 0 nothing is held, 1 something is.
    """
    return show(
        lambda agent: agent.reload(),
        rendering.record_lines,
        pipe,
        as_json,
        status=lambda record: 1 if record["held"] else 0,
        timeout=RELOAD_TIMEOUT,
    )
