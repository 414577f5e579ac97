"""The commands that ask about an event: `lookup` and `explain`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import click

from agent.cli import rendering, screen
from agent.cli.asking import show
from agent.cli.completing import events
from agent.cli.input import not_empty
from agent.cli.options import Command, code_option, json_option, pipe_option
from agent.cli.output import utf8
from agent.cli.rendering import JsonObject
from agent.cli.usage import whole_number
from agent.client import Client
from agent.core.quoting import printable


def event_options(command: Command) -> Command:
    """The event, its job, the owner, and what occurred before."""
    number = whole_number
    options = [
        click.argument("event", metavar="EVENT", shell_complete=events),
        click.option("--job", type=number, metavar="ID", help="The job of the event."),
        click.option("--label", metavar="L", help="That job's label."),
        click.option("--parent", type=number, metavar="ID", help="That job's parent (its pid)."),
        click.option("--pgrp", type=number, metavar="ID", help="That job's process group."),
        click.option("--owner-job", type=number, metavar="ID", help="The callbacks' job."),
        click.option("--owner-label", metavar="L", help="Its label."),
        click.option("--owner-parent", type=number, metavar="ID", help="Its parent."),
        click.option("--owner-pgrp", type=number, metavar="ID", help="Its process group."),
        click.option(
            "--occurred",
            multiple=True,
            metavar="EVENT",
            shell_complete=events,
            help="An event that occurred before; may be repeated.",
        ),
        code_option,
        json_option,
        pipe_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@event_options
def lookup(event: str, code: bool, as_json: bool, pipe: str | None, **about: Any) -> int:
    """Show which callbacks fire on EVENT, such as failed-job-self.

    With --job, --label, --parent or --pgrp, EVENT is an event of that job and its context is
    `self`.

    Exit status: 0 at least one enabled callback fires, 1 none.
    """
    params = params_of(event, about)
    limit = screen.width()

    def notes(answer: JsonObject) -> Iterator[str]:
        if not answer["callbacks"] and not answer["partial"]:
            yield f"no callback fires on {printable(event)}"
            yield from hints(event, limit)
        yield from rendering.footnotes(answer, limit)

    return show(
        lambda agent: agent.lookup(**params, code=code),
        lambda answer: rendering.callbacks(answer, limit, "MISSING"),
        pipe,
        as_json,
        status=lambda answer: 0 if any(c["enabled"] for c in answer["callbacks"]) else 1,
        notes=notes,
    )


@click.command()
@event_options
def explain(event: str, code: bool, as_json: bool, pipe: str | None, **about: Any) -> int:
    """Show why callbacks fire on EVENT, and why others do not.

    Shows every callback of EVENT's name and type, as lookup does, with the reason.
    """
    params = params_of(event, about)
    limit = screen.width()
    served: list[Any] = []

    def ask(agent: Client) -> Any:
        answer = agent.explain(**params, code=code)
        if not as_json and answer.get("callbacks") == []:
            # A site may have event names of its own.
            served.append(agent.list())
        return answer

    def notes(answer: JsonObject) -> Iterator[str]:
        if not answer["callbacks"]:
            yield f"no callback has the name and type of {printable(event)}"
        if all(callback["verdict"] == "no" for callback in answer["callbacks"]):
            names = {name for listed in served for name in _names(listed)}
            yield from hints(event, limit, names)
        yield from rendering.footnotes(answer, limit)

    return show(
        ask,
        lambda answer: rendering.callbacks(answer, limit, "WHY"),
        pipe,
        as_json,
        notes=notes,
    )


def _names(listed: JsonObject) -> Iterator[str]:
    """The event names in the triggers of a result of `list`."""
    from agent.core.trigger import parse, terms

    for callback in listed["callbacks"]:
        tree, _ = parse(callback["trigger"])
        if tree is not None:
            yield from (term.name for term in terms(tree) if "*" not in term.name)


def hints(event: str, limit: int | None, names: Collection[str] = ()) -> Iterator[str]:
    """The lines that say what was probably meant by an event that nothing matches. `names` are
    event names of the site's own."""
    from agent.cli.event_hints import hint

    if text := hint(event, names):
        yield from screen.wrap(text, limit, "hint: ", screen.INDENT)


def params_of(event: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The event, the owner and what occurred, as parameters of a request. Raises UsageError."""
    job = _job(about, "", "--label")
    owner = _job(about, "owner_", "--owner-label")
    asked: str | dict[str, Any] = not_empty(utf8(event, "EVENT"), "EVENT")
    if job:
        name, _, rest = event.partition("-")
        type_, _, rest = rest.partition("-")
        context, hyphen, extra = rest.partition("-")
        if context != "self" or (hyphen and not extra):
            raise click.UsageError(
                f"EVENT is {printable(event)}; with --job, --label, --parent or --pgrp it is an"
                " event of that job itself: expected NAME-TYPE-self or NAME-TYPE-self-EXTRA"
            )
        asked = {"name": name, "type": type_, "job": job}
        if extra:
            asked["extra"] = extra
    occurred = [not_empty(utf8(before, "--occurred"), "--occurred") for before in about["occurred"]]
    return {"event": asked, "owner": owner or None, "occurred": occurred or None}


def _job(about: Mapping[str, Any], prefix: str, label_option: str) -> dict[str, Any]:
    """The fields of a job that the options give."""
    label = about[prefix + "label"]
    job = {
        "id": about[prefix + "job"],
        "label": utf8(label, label_option) if label else None,
        "pid": about[prefix + "parent"],
        "pgrp": about[prefix + "pgrp"],
    }
    return {name: value for name, value in job.items() if value is not None}
