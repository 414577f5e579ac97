"""The command `diff`: what is on disk, or in another directory, compared with what is served."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from agent.cli.asking import ask, not_understood
from agent.cli.completing import directories, files
from agent.cli.exits import NO_AGENT, USAGE, Failed
from agent.cli.findings import concise
from agent.cli.input import content, not_empty
from agent.cli.input import directory as folder
from agent.cli.output import paint, print_json, print_lines, say
from agent.cli.setting_options import given_settings, setting_options
from agent.cli.starting import start_errors
from agent.core.counting import count
from agent.core.quoting import printable
from agent.settings import DIFF, read
from agent.settings.host import Host

if TYPE_CHECKING:
    from agent.check import Checked, Subject
    from agent.cli.served import Serving
    from agent.core.diff import Fired, FiresDifferently
    from agent.core.event import Event
    from agent.core.index import Change, ServedDirectory
    from agent.diff import Compared

_MARKS = {
    "added": ("gained", "green"),
    "removed": ("lost", "red"),
    "modified": ("changed", "yellow"),
}


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, shell_complete=directories)
@click.option(
    "--replaces",
    metavar="LISTED",
    shell_complete=directories,
    help="The directory whose place DIR would take; may be left out if one is listed.",
)
@click.option(
    "--events",
    metavar="FILE",
    shell_complete=files,
    help="Also compare which callbacks fire for these events, one a line; - is standard input.",
)
@setting_options(DIFF)
@click.option("--json", "as_json", is_flag=True, help="Print {directories, events} as JSON.")
@click.pass_context
def diff(
    context: click.Context,
    /,
    directory: str | None,
    replaces: str | None,
    events: str | None,
    as_json: bool,
    **_: Any,
) -> int:
    """Compare what is on disk with what the agent serves.

    With DIR: what would change if DIR, which may be named by its callbacks.conf, took the place of
    a directory that is served. So a change can be tried before it is copied in.

    Exit status: 0 nothing differs, 1 something does.
    """
    for text, what in ((directory, "DIR"), (replaces, "--replaces"), (events, "--events")):
        if text is not None:
            not_empty(text, what)
    if replaces and not directory:
        raise click.UsageError("--replaces needs DIR, the directory that takes the place")
    asked = _events(events) if events else []
    from agent.daemon import process

    with start_errors():
        process.prepare(serves=False)
        from agent.check import check_directories
        from agent.diff import fired, served_directories

        host = Host.here()
        candidate = folder(directory, "DIR", host) if directory else None
        listed = folder(replaces, "--replaces", host) if replaces else None
        serving = _serving(context)
        process.leave_working_directory()
        pairs = _pairs(serving, candidate, listed)
        checked = check_directories(new for _, new in pairs)
        answer = ask(lambda agent: agent.list(), serving.pipe)
    try:
        served = served_directories(serving.directories, answer["callbacks"])
        compared = [
            _compare(serving, served[old.path], old, new)
            for (old, _), new in zip(pairs, checked, strict=True)
        ]
        differently = list(fired(served, compared, asked)) if asked else []
    except (LookupError, TypeError, ValueError, AttributeError):
        raise not_understood() from None
    _print(compared, differently, len(asked) if events else None, as_json)
    return 1 if differently or any(one.differs for one in compared) else 0


def _serving(context: click.Context) -> Serving:
    """The agent that is asked. Raises Failed and SettingsError."""
    from agent.cli.served import Serving

    settings = read(given_settings(context))
    serving = Serving.find(settings, given_settings(context))
    if serving.status is None:
        # Nobody answered. This call raises the error that says why.
        ask(
            lambda agent: agent.status(),
            settings.pipe if "pipe" in given_settings(context) else None,
        )
        raise Failed(NO_AGENT, f"no agent: {serving.trouble or 'it has just started'}")
    return serving


def _pairs(
    serving: Serving, candidate: str | None, listed: str | None
) -> list[tuple[Subject, Subject]]:
    """Of each directory that is compared: it as it is served, and what is read in its place.

    Raises UsageError and SettingsError.
    """
    all_listed = [*serving.directories]
    names = ", ".join(map(printable, all_listed)) or "none"
    if candidate is None:
        subjects = [serving.subject(path)[0] for path in all_listed]
        return [(subject, subject) for subject in subjects]
    same, _ = serving.served_as(candidate)
    if listed is None:
        if same is not None:
            listed = same
        elif len(all_listed) == 1:
            (listed,) = all_listed
        else:
            raise click.UsageError(f"name the directory that DIR replaces with --replaces: {names}")
    found, _ = serving.served_as(listed)
    if found is None:
        raise click.UsageError(f"{printable(listed)} is not served; these are: {names}")
    old = serving.subject(found)[0]
    if same == found:
        return [(old, old)]
    # Where it is now, others may write: the permissions of the place that it takes count.
    new = replace(old, path=candidate, unsafe_permissions="ignore")
    if new.accepted is not None:
        new = replace(new, accepted=replace(new.accepted, device=None))
    return [(old, new)]


def _compare(serving: Serving, served: ServedDirectory, old: Subject, new: Checked) -> Compared:
    from agent.check import with_hint_for_path
    from agent.core.unit import CONF
    from agent.diff import compare

    accepted = old.accepted.unit if old.accepted else None
    compared = compare(served, accepted, new, serving.languages())
    if compared.finding is not None and new.path != old.path:
        compared.finding = with_hint_for_path(compared.finding, [new.path])
    if served.callbacks and (accepted is None or accepted.conf is None):
        _, why = serving.stored(old)
        why = why or "an older version of the agent accepted it"
        compared.notes.append(f"the text of {CONF} as it is served is not known: {why}")
    return compared


# Events ------------------------------------------------------------------------------------------


def _events(file: str) -> list[tuple[str, Event]]:
    """The events of a file, or with `-` of standard input, with their texts. Raises Failed."""
    from agent.core.event import Event, EventError

    found = []
    source: str | int = file
    name = file
    if file == "-":
        source, name = 0, "standard input"
        if sys.stdin is None:
            raise Failed(USAGE, f"--events: {name} is closed; name a file")
    try:
        text = content(source, "--events", name).decode()
    except UnicodeDecodeError as error:
        raise Failed(USAGE, f"{name}: it is not UTF-8 ({error.reason})") from None
    for number, line in enumerate(text.split("\n"), 1):
        event = line.strip()
        if not event or event.startswith("#"):
            continue
        try:
            found.append((event, Event.from_text(event)))
        except EventError as wrong:
            raise Failed(
                USAGE, f"{name}:{number}: {wrong.message}; expected {wrong.expected}"
            ) from None
    return found


# Output ------------------------------------------------------------------------------------------


def _print(
    compared: Sequence[Compared],
    fired: Sequence[FiresDifferently],
    events: int | None,
    as_json: bool,
) -> None:
    """Print what differs. `events` is how many events were compared; None if none were given."""
    if as_json:
        found = {"directories": [one.as_json() for one in compared]}
        if events is not None:
            found["events"] = [one.as_json() for one in fired]
        print_json(found)
        return
    lines = [line for one in compared for line in _lines(one)]
    print_lines([*lines, *_event_lines(fired)])
    say(_tally(compared, fired, events))


def _lines(one: Compared) -> Iterator[str]:
    """The report of one directory."""
    if not one.differs and not one.notes:
        return
    instead = "" if one.read == one.directory else f" replaced by {one.read}"
    held = paint(f"  HELD: {printable(one.held)}", "red") if one.held else ""
    yield f"{printable(one.directory + instead)}{held}"
    if one.finding is not None:
        yield "    " + concise(one.finding, paint)
    for note in one.notes:
        yield f"    note: {printable(note)}"
    moved = [change for change in one.changes if change.what == ("line",)]
    for change in one.changes:
        if len(moved) == 1 or change not in moved:
            yield _callback_line(change)
    if len(moved) > 1:
        number = count(len(moved), "callback")
        yield f"    {paint('changed', 'yellow')}  only the line of {number}"
    for text in one.texts:
        for line in text.diff.split("\n")[:-1]:
            yield _diff_line(line)


def _callback_line(change: Change) -> str:
    word, colour = _MARKS[change.change]
    callback = change.callback
    registration = callback.registration
    text = f"{registration.file}  {registration.text}  (line {registration.line})"
    why = []
    if change.before is not None:
        if "digest" in change.what:
            why.append("other code")
        if "line" in change.what:
            why.append(f"was line {change.before.registration.line}")
        if "enabled" in change.what:
            why.append("its language is on now" if callback.enabled else "its language is off now")
    elif not callback.enabled:
        why.append("its language is off")
    about = f": {', '.join(why)}" if why else ""
    return f"    {paint(word, colour)}{' ' * (7 - len(word))}  {printable(text + about)}"


def _diff_line(line: str) -> str:
    # Tabs are the only control characters that stay.
    shown = "\t".join(map(printable, line.split("\t")))
    if line.startswith("@@"):
        return paint(shown, "cyan")
    if line.startswith(("-", "+")):
        return paint(shown, "red" if line.startswith("-") else "green")
    return shown


def _event_lines(fired: Sequence[FiresDifferently]) -> Iterator[str]:
    for one in fired:
        yield f"event {printable(one.event)}"
        kept = [row for row in one.old if row in one.new]
        if kept != [row for row in one.new if row in one.old]:
            kept = []  # In another order, they are lost here and gained there.
        for row in one.old:
            text = _fired(row)
            yield f"      {text}" if row in kept else paint(f"    - {text}", "red")
        for row in one.new:
            if row not in kept:
                yield paint(f"    + {_fired(row)}", "green")


def _fired(row: Fired) -> str:
    text = f"{row.path}  {row.trigger}"
    if row.missing is not None:
        text += f"  (partial, missing: {row.missing})"
    if not row.enabled:
        text += "  (language off)"
    return printable(text)


def _tally(
    compared: Sequence[Compared], fired: Sequence[FiresDifferently], events: int | None
) -> str:
    parts = []
    changes = [str(change.change) for one in compared for change in one.changes]
    for change, (word, _) in _MARKS.items():
        if number := changes.count(change):
            parts.append(f"{count(number, 'callback')} {word}")
    if number := sum(len(one.texts) for one in compared):
        parts.append(f"{count(number, 'file differs', 'files differ')}")
    if number := sum(bool(one.held) for one in compared):
        parts.append(f"{count(number, 'directory', 'directories')} held")
    if events is not None:
        parts.append(f"{len(fired)} of {count(events, 'event')} fire differently")
    read = count(len(compared), "directory", "directories")
    return f"{read}: {', '.join(parts) or 'nothing differs'}"
