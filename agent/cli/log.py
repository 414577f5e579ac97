"""The command `log`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, BinaryIO

import click

from agent.cli import log_following
from agent.cli.asking import ask
from agent.cli.completing import files, served
from agent.cli.exits import NO_AGENT, USAGE, Failed
from agent.cli.input import not_empty
from agent.cli.log_colour import coloured
from agent.cli.log_entries import Entry, Wanted
from agent.cli.log_files import newest, whole_lines
from agent.cli.log_times import convert
from agent.cli.options import EnvOption, pipe_option
from agent.cli.output import paint, report, say, write
from agent.cli.usage import whole_number
from agent.client import AgentError
from agent.core.counting import count
from agent.core.quoting import printable
from agent.settings import STANDARD_OUTPUT, TABLE, SettingsError, resolve
from agent.settings.host import Host

#: Records that are shown by default: what fits on a terminal.
DEFAULT_RECORDS = 10

EVENTS = ("started", "reloaded", "held", "restored", "stopped")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Keep showing what is added, until SIGINT.")
@click.option(
    "-n",
    "--records",
    type=whole_number,
    metavar="N",
    help=f"Show the last N records. Default: {DEFAULT_RECORDS}, with --since or --until all.",
)
@click.option(
    "--since",
    callback=convert,
    metavar="TIME",
    help="Show records from this time on: 03:00, '2026-11-27 03:00', 2h or 30m ago, or RFC 3339.",
)
@click.option("--until", callback=convert, metavar="TIME", help="Show records up to this time.")
@click.option(
    "--only",
    type=click.Choice(EVENTS),
    multiple=True,
    metavar="EVENT",
    help=f"Show only records of this event ({', '.join(EVENTS)}); may be repeated.",
)
@click.option(
    "--path",
    metavar="TEXT",
    shell_complete=served,
    help="Show only records of files and directories whose path has this text in it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print records as JSON, one a line.")
@click.option(
    TABLE["log"].flag,
    "log_file",
    cls=EnvOption,
    envvar=TABLE["log"].variable,
    show_envvar=True,
    metavar="FILE",
    shell_complete=files,
    help="The log; by default the agent's.",
)
@pipe_option
def log(
    follow: bool,
    records: int | None,
    since: datetime | None,
    until: datetime | None,
    only: tuple[str, ...],
    path: str | None,
    as_json: bool,
    log_file: str | None,
    pipe: str | None,
) -> int:
    """Show the reload log and its rotated files."""
    if follow and until is not None:
        raise click.UsageError("--follow shows what comes from now on: leave out --until")
    if since is not None and until is not None and until < since:
        raise click.UsageError(f"--until {until} is before --since {since}")
    if path is not None:
        not_empty(path, "--path")
    most = records
    if most is None and since is None and until is None:
        most = DEFAULT_RECORDS
    wanted = Wanted(since, until, only, path, as_json)
    file = log_file or _log_of_agent(pipe)
    try:
        if file == STANDARD_OUTPUT:
            if not as_json:
                raise Failed(
                    USAGE,
                    "the reload log goes to the agent's standard output and is not a file: look"
                    " where that goes (under systemd: journalctl -u callback-agent), or have the"
                    " agent's newest records with --json",
                )
            return _show_history(most, wanted, follow, pipe)
        return _show_file(file, most, wanted, follow, as_json, pipe)
    except KeyboardInterrupt:
        if not follow:
            raise
    except FileNotFoundError:
        raise Failed(1, f"{printable(file)} does not exist yet: no record was logged") from None
    except PermissionError:
        how = "run this as root or as the agent's user"
        raise Failed(1, f"{printable(file)}: your user may not read it; {how}") from None
    except OSError as error:
        raise Failed(1, f"{printable(file)}: {error.strerror}") from None
    return 0


def _log_of_agent(pipe: str | None) -> str:
    """The running agent's log, else the default."""
    try:
        return _log_setting(pipe)
    except (Failed, LookupError, TypeError) as error:
        try:
            path = resolve({}, os.environ, None, Host.here()).log
        except SettingsError as wrong:
            raise Failed(USAGE, str(wrong)) from None
        if pipe:
            report(f"{error}; this is {path}")
        return path


def _log_setting(pipe: str | None) -> str:
    """The running agent's log. Raises Failed, and LookupError or TypeError."""
    return str(ask(lambda agent: agent.status(), pipe)["settings"]["log"]["value"])


# A file ------------------------------------------------------------------------------------------


def _show_file(
    path: str, most: int | None, wanted: Wanted, follow: bool, as_json: bool, pipe: str | None
) -> int:
    """Show a log, whose records must be in JSON if they are asked for. Raises OSError."""
    file = log_following.opened(path, follow, lambda text: say(printable(text)))
    with contextlib.ExitStack() as opened:
        opened.enter_context(file)
        end = whole_lines(file) if follow else file.seek(0, os.SEEK_END)
        added = log_following.added(file, path, end, report)
        opened.callback(added.close)
        entries, others = newest(file, end, path, most, wanted, report)
        if as_json and _is_in_text(file, end, path, entries, others, follow):
            _must_be_of_agent(path, pipe)
            return _show_history(most, wanted, follow, pipe)
        if others:
            say(f"{count(len(others), 'entry', 'entries')} left out, which are not records in JSON")
        if not _print(entries, as_json) or not follow:
            return 0
        for more in added:
            if not _print(filter(wanted.includes, more), as_json):
                break
    return 0


def _print(entries: Iterable[Entry], as_json: bool) -> bool:
    """Print entries; as JSON, without what follows a record. False if nobody reads any more."""
    data = (e.data.partition(b"\n")[0] if as_json else e.data for e in entries)
    lines = b"".join(d if d.endswith(b"\n") else d + b"\n" for d in data)
    return write(coloured(lines, paint))


def _is_in_text(
    file: BinaryIO, end: int, path: str, entries: list[Entry], others: list[Entry], follow: bool
) -> bool:
    """Whether a log has records in text only; with `follow`, whether its newest is in text."""
    if follow:
        return any(e.is_text for e in newest(file, end, path, 1, Wanted(), _ignore)[0])
    if entries or not any(e.is_text for e in others):
        return False
    return not newest(file, end, path, 1, Wanted(as_json=True), _ignore)[0]


def _ignore(_: str) -> None:
    """What cannot be read was reported already."""


# Records from the pipe ---------------------------------------------------------------------------


def _must_be_of_agent(path: str, pipe: str | None) -> None:
    """Raises Failed unless a log is that of the running agent."""
    what = f"{printable(path)} is in text, which has no records"
    try:
        if os.path.samefile(_log_setting(pipe), path):
            return
    except Failed as error:
        raise Failed(
            error.status,
            f"{what}; a running agent has its newest ones, but there is {error}",
        ) from None
    except (OSError, LookupError, TypeError):
        pass
    raise Failed(1, f"{what}; the agent that runs writes another log")


def _show_history(most: int | None, wanted: Wanted, follow: bool, pipe: str | None) -> int:
    """Print the records that the agent remembers, and with `follow` those that it makes."""

    def request(agent: Any) -> dict[str, Any]:
        # Subscribed first: no record is made in between.
        stream = agent.subscribe() if follow else None
        return {"stream": stream, "records": agent.history()["records"]}

    answer = ask(request, pipe)
    known: list[dict[str, Any]] = answer["records"]
    say(f"{count(len(known), 'record')} of the agent's own memory, which goes back to its start")
    found = [record for record in known if wanted.includes_record(record)]
    shown = found if most is None else found[max(0, len(found) - most) :]
    if not _print_records(shown) or not follow:
        return 0
    seen = known[-1].get("sequence", 0) if known else 0
    for record in _records(answer["stream"]):
        is_wanted = record.get("sequence", 0) > seen and wanted.includes_record(record)
        if is_wanted and not _print_records([record]):
            break
    return 0


def _records(stream: Any) -> Iterator[dict[str, Any]]:
    """Records as the agent makes them. Raises Failed when it stops."""
    with stream:
        try:
            yield from stream
        except AgentError as error:
            raise Failed(NO_AGENT, str(error)) from None


def _print_records(records: Iterable[dict[str, Any]]) -> bool:
    """Print records, one a line. False if nobody reads them any more."""
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records)
    return write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
