"""The commands. They reach a running agent through `agent.client` alone.

What a command needs is imported inside it, so that `lookup`, which scripts call often, starts fast.

Exit statuses that all commands share: 2 bad usage, 3 no agent (or none that answers), 5 the output
could not be written. What else each one means stands at the command.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from agent import client
from agent.cli import rendering as show
from agent.core.diagnostic import Severity
from agent.core.quoting import printable

USAGE = 2
NO_AGENT = 3
NO_OUTPUT = 5

#: JSON-RPC 2.0: what the agent answers when the question was wrong, not the agent.
_WRONG_QUESTION = {-32700, -32600, -32602}

#: Seconds that `reload` waits. It may have to wait for someone who is still writing, and to read
#: 100 directories from a slow server.
RELOAD_TIMEOUT = 120.0

#: Records that `log` shows unless told otherwise: what fits on a terminal.
LOG_RECORDS = 10

#: A JSON object as the agent gives it.
_Answer = show.Answer
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Failed(Exception):
    """What stops a command: its exit status, and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (or the process's own) name; its exit status."""
    try:
        try:
            status = _commands.main(arguments, "callback-agent", standalone_mode=False)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except _Failed as error:
            _complain(str(error))
            return error.status
        except (click.Abort, KeyboardInterrupt):
            return 130  # As a shell reports a command that SIGINT ended.
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        # Nobody reads what we complain about. Python would complain again at exit, so:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return NO_OUTPUT
    except OSError as error:
        # click prints its help itself.
        _complain(f"the output cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_OUTPUT


# -- the options that several commands take -------------------------------------------------------


def _pipe_option(command: _Command) -> _Command:
    text = "The agent's pipe; else $CALLBACK_AGENT_PIPE, your own agent's, root's."
    return click.option("--pipe", metavar="FILE", help=text)(command)


def _json_option(command: _Command) -> _Command:
    text = "Print the agent's answer as it is, one JSON value."
    return click.option("--json", "as_json", is_flag=True, help=text)(command)


def _code_option(command: _Command) -> _Command:
    return click.option("--code", is_flag=True, help="Show each callback's code too.")(command)


def _qb_options(command: _Command) -> _Command:
    path = "Callback directories, with commas between; else $CALLBACK_AGENT_PATH, qb.conf."
    conf = "The supervisor's configuration; else $CALLBACK_AGENT_QB_CONF, /etc/qb.conf."
    command = click.option("--callback-path", metavar="DIRS", help=path)(command)
    return click.option("--qb-conf", metavar="FILE", help=conf)(command)


def _trust_options(command: _Command) -> _Command:
    unsafe = "What becomes of callbacks that others may write; root: refuse, others: warn."
    group = "A group whose members may write callbacks."
    choice = click.Choice(["refuse", "warn", "ignore"])
    command = click.option("--trusted-group", metavar="GROUP", help=group)(command)
    return click.option("--unsafe-permissions", type=choice, help=unsafe)(command)


def _event_options(command: _Command) -> _Command:
    """What lookup and explain take: the event, its job, its owner, and what occurred before."""
    number = click.IntRange(min=0)
    options = [
        click.argument("event", metavar="EVENT"),
        click.option("--job", type=number, metavar="ID", help="The event is of this job."),
        click.option("--label", metavar="L", help="That job's label."),
        click.option("--parent", type=number, metavar="ID", help="That job's parent (its pid)."),
        click.option("--pgrp", type=number, metavar="ID", help="That job's process group."),
        click.option("--owner-job", type=number, metavar="ID", help="The callbacks' job."),
        click.option("--owner-label", metavar="L", help="Its label."),
        click.option("--owner-parent", type=number, metavar="ID", help="Its parent."),
        click.option("--owner-pgrp", type=number, metavar="ID", help="Its process group."),
        click.option(
            "--occurred", multiple=True, metavar="EVENT", help="Came before; may be repeated."
        ),
        _code_option,
        _json_option,
        _pipe_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


# -- the commands ---------------------------------------------------------------------------------


@click.group("callback-agent")
def _commands() -> None:
    """Serves Qube universal callbacks to a supervisor, and takes edits live."""


@_commands.command()
@_qb_options
@click.option("--pipe", metavar="FILE", help="Where to listen; else $CALLBACK_AGENT_PIPE.")
@click.option("--log", metavar="FILE", help="The reload log, - for standard output.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Its format.")
@click.option("--state", metavar="DIR", help="Where accepted callbacks are kept over restarts.")
@_trust_options
@click.option("--pipe-group", metavar="GROUP", help="A group whose members may ask.")
@click.option("--reload-for", type=click.Choice(["all", "owner"]), help="Who may ask for a reload.")
def serve(callback_path: str | None, **flags: str | None) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads.

    Exit status: 0 stopped, 2 bad usage or settings, 4 another agent holds the pipe.
    """
    from agent.daemon import signals

    with _start_errors():
        received = signals.start()
        from agent.daemon.run import run

        return run({"directories": callback_path, **flags}, received)


@_commands.command()
@click.argument("directories", metavar="[DIR]...", nargs=-1)
@_qb_options
@_trust_options
@click.option("--json", "as_json", is_flag=True, help="Print {diagnostics: [...]}.")
def check(
    directories: tuple[str, ...], callback_path: str | None, as_json: bool, **flags: str | None
) -> int:
    """Read the directories (without DIR: those that serve would read) and print every finding.

    Changes nothing and needs no agent. Exit status: 0 no errors, 1 errors.
    """
    from agent.daemon import process

    with _start_errors():
        process.prepare(serves=False)
        from agent.check import check as found_in
        from agent.daemon.descriptors import raise_fd_limit
        from agent.settings import Host, group_id, normalise, read

        settings = read({"directories": callback_path, **flags})
        group = group_id(settings.trusted_group, settings.sources["trusted_group"])
        host = Host.here()
        named = tuple(dict.fromkeys(normalise(_utf8(d, "DIR"), host) for d in directories if d))
        process.leave_working_directory()
        read_directories = named or settings.directories
        raise_fd_limit()
        found = found_in(read_directories, settings.languages, settings.unsafe_permissions, group)
    findings = [*settings.findings, *found]
    if as_json:
        _print_json({"diagnostics": [finding.as_json() for finding in findings]})
    else:
        _print(show.finding_line(finding, _paint) for finding in findings)
        number = show.count(len(read_directories), "directory", "directories")
        _say(f"{number}: {show.tally(findings)}")
    return 1 if any(finding.severity is Severity.ERROR for finding in findings) else 0


@_commands.command()
@_event_options
def lookup(event: str, code: bool, as_json: bool, pipe: str | None, **about: Any) -> int:
    """Ask which callbacks fire on EVENT, for example failed-job-self.

    With --job, --label, --parent or --pgrp, EVENT is that job's own and says `self`.
    Exit status: 0 at least one enabled callback fires, 1 none.
    """
    question = _question(event, about)

    def rows(answer: _Answer) -> Iterator[str]:
        lines = [(show.columns(c), "", c) for c in answer["callbacks"]]
        for c in answer["partial"]:
            lines.append((show.columns(c), f"(partial, missing: {c['missing']})", c))
        yield from show.table(lines, _paint)

    return _show(
        lambda agent: agent.lookup(**question, code=code),
        rows,
        pipe,
        as_json,
        status=lambda answer: 0 if any(c["enabled"] for c in answer["callbacks"]) else 1,
        nothing=f"no callback fires on {printable(event)}",
    )


@_commands.command()
@_event_options
def explain(event: str, code: bool, as_json: bool, pipe: str | None, **about: Any) -> int:
    """As lookup, and say of every callback of EVENT's name and type why it fires or does not."""
    question = _question(event, about)

    def rows(answer: _Answer) -> Iterator[str]:
        callbacks = answer["callbacks"]
        cells = [([c["verdict"], *show.columns(c)], c["reason"], c) for c in callbacks]
        yield from show.table(cells, _paint)

    return _show(
        lambda agent: agent.explain(**question, code=code),
        rows,
        pipe,
        as_json,
        nothing=f"no callback has the name and type of {printable(event)}",
    )


@_commands.command("list")
@_code_option
@_json_option
@_pipe_option
def list_(code: bool, as_json: bool, pipe: str | None) -> int:
    """Show every callback that is served."""

    def rows(answer: _Answer) -> Iterator[str]:
        yield from show.table([(show.columns(c), "", c) for c in answer["callbacks"]], _paint)

    nothing = "no callbacks are served"
    return _show(lambda agent: agent.list(code), rows, pipe, as_json, nothing=nothing)


@_commands.command()
@_json_option
@_pipe_option
def status(as_json: bool, pipe: str | None) -> int:
    """Show the agent's health, directories, settings and last reload.

    Exit status: 0 ok, 1 degraded.
    """
    return _show(
        lambda agent: agent.status(),
        lambda answer: show.health(answer, _paint),
        pipe,
        as_json,
        status=lambda answer: 0 if answer["state"] == "ok" else 1,
    )


@_commands.command()
@_json_option
@_pipe_option
def reload(as_json: bool, pipe: str | None) -> int:
    """Read everything again, now, and show the record of it.

    When it returns, every earlier change is served or held. Exit status: 0 nothing is held, 1
    something is.
    """
    return _show(
        lambda agent: agent.reload(),
        show.record_lines,
        pipe,
        as_json,
        status=lambda record: 1 if record["held"] else 0,
        timeout=RELOAD_TIMEOUT,
    )


@_commands.command()
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added, until SIGINT.")
@click.option(
    "-n",
    "--records",
    type=click.IntRange(min=0),
    default=LOG_RECORDS,
    show_default=True,
    metavar="N",
    help="Show the last N records.",
)
@click.option("--log", metavar="FILE", help="The log; else $CALLBACK_AGENT_LOG, the agent's.")
@_pipe_option
def log(follow: bool, records: int, log: str | None, pipe: str | None) -> int:
    """Show the reload log."""
    from agent.cli.log_following import Tail

    path = _log_path(log, pipe)
    try:
        Tail(path, _write, lambda text: _say(printable(text))).show(records, follow)
    except KeyboardInterrupt:
        if not follow:
            raise
    except FileNotFoundError:
        raise _Failed(1, f"there is no log at {printable(path)} yet") from None
    except OSError as error:
        raise _Failed(1, f"{printable(path)}: {error.strerror}") from None
    return 0


@_commands.command("help")
@click.argument("topic", metavar="[TOPIC|CODE]", required=False)
def help_(topic: str | None) -> int:
    """Show a page of the manual, or what a finding's code means and how to correct it.

    Without an argument: the list of topics. Exit status: 0, 2 no such page.
    """
    from agent import manual

    if topic is None:
        _print_page(manual.overview())
        return 0
    page = manual.find(topic)
    if page is None:
        near = manual.near(topic)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise _Failed(
            USAGE,
            f"the manual has no page {topic}{meant}; expected a finding's code or one of"
            f" {', '.join(manual.topics())}",
        )
    _print_page(manual.plain(page))
    return 0


@contextlib.contextmanager
def _start_errors() -> Iterator[None]:
    """Report what `serve` or `check` meets as what it is, not as an error of the output."""
    from agent.settings import SettingsError

    try:
        yield
    except SettingsError as error:
        raise _Failed(USAGE, str(error)) from None
    except (OSError, RuntimeError, ImportError) as error:
        if isinstance(error, RuntimeError) and "thread" not in str(error):
            raise
        raise _Failed(USAGE, _missing_resource(error)) from None
    except BaseException as error:
        # What native code raises in place of an abort derives from no class that can be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise _Failed(1, f"a library failed: {error}") from None


def _missing_resource(error: Exception) -> str:
    """One line: what the system did not give, and where it is limited."""
    if isinstance(error, ImportError):
        return f"the installation is incomplete: {error}; install callback-agent again"
    found = (error.strerror if isinstance(error, OSError) else None) or str(error)
    number = error.errno if isinstance(error, OSError) else errno.EAGAIN
    hints = {
        errno.EMFILE: "raise the limit of open files (ulimit -n; LimitNOFILE of systemd)",
        errno.EAGAIN: "raise the limit of processes (ulimit -u; TasksMax of systemd)",
        errno.ENOMEM: "raise the limit of memory (ulimit -v; MemoryMax of systemd)",
    }
    path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    hint = f"; {hints[number]}" if number in hints else ""
    return f"the system does not provide what the agent needs: {path}{found}{hint}"


# -- asking the agent -----------------------------------------------------------------------------


def _show(
    ask: Callable[[client.Client], _Answer],
    rows: Callable[[_Answer], Iterator[str]],
    pipe: str | None,
    as_json: bool,
    *,
    status: Callable[[_Answer], int] = lambda _: 0,
    nothing: str = "",
    timeout: float = client.DEFAULT_TIMEOUT,
) -> int:
    """Ask, print the answer as `rows` makes it (or as JSON), give the exit status."""
    answer = _ask(ask, pipe, timeout)
    try:
        result = status(answer)
        lines = [] if as_json else list(rows(answer))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise _Failed(
            NO_AGENT, "the agent's answer is not understood: is it of another version than this?"
        ) from None
    if as_json:
        _print_json(answer)
    elif lines:
        _print(lines)
    elif nothing:
        _say(nothing)
    return result


def _ask(
    ask: Callable[[client.Client], _Answer],
    pipe: str | None,
    timeout: float = client.DEFAULT_TIMEOUT,
) -> _Answer:
    """The answer of the agent at `pipe`, or else of the first that is found."""
    named = pipe or os.environ.get("CALLBACK_AGENT_PIPE")
    missed = []
    for path in [named] if named else client.default_paths():
        try:
            with client.Client(path, timeout) as agent:
                return ask(agent)
        except client.NoAgent as error:
            missed.append(str(error))
        except client.Refused as error:
            wrong = error.code in _WRONG_QUESTION
            raise _Failed(USAGE if wrong else NO_AGENT, _refusal(error)) from None
        except client.AgentError as error:
            raise _Failed(NO_AGENT, str(error)) from None
    raise _Failed(
        NO_AGENT,
        f"no agent: {'; '.join(missed)}; start one with `callback-agent serve`, or say with --pipe"
        " where it is",
    )


def _refusal(error: client.Refused) -> str:
    """The agent's error as one line, with where it was and what was expected."""
    data = error.data if isinstance(error.data, dict) else {}
    text = error.message
    # Where the message says it already, it is not said again.
    if data.get("pointer") and str(data["pointer"]) not in text:
        text += f", at {data['pointer']}"
    if data.get("column"):
        text += f", column {data['column']}"
    if data.get("expected") and str(data["expected"]) not in text:
        text += f"; expected {data['expected']}"
    return text


def _question(event: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The event, the owner and what occurred, from the command line's options."""
    job = _job(about, "", "--label")
    owner = _job(about, "owner_", "--owner-label")
    asked: str | dict[str, Any] = _utf8(event, "EVENT")
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
    occurred = [_utf8(before, "--occurred") for before in about["occurred"]]
    return {"event": asked, "owner": owner or None, "occurred": occurred or None}


def _job(about: Mapping[str, Any], prefix: str, label_option: str) -> dict[str, Any]:
    """What is said of a job; empty where nothing is."""
    label = about[prefix + "label"]
    job = {
        "id": about[prefix + "job"],
        "label": _utf8(label, label_option) if label else None,
        "pid": about[prefix + "parent"],
        "pgrp": about[prefix + "pgrp"],
    }
    return {name: value for name, value in job.items() if value is not None}


def _utf8(text: str, what: str) -> str:
    """The text of the command line, which may be any bytes and must be UTF-8 to go into JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Failed(USAGE, f"{what}: {printable(text)} is not UTF-8") from None
    return text


# -- output ---------------------------------------------------------------------------------------


def _paint(text: str, colour: str) -> str:
    """In colour on a terminal that wants it (https://no-color.org)."""
    stream = sys.stdout
    if stream is None or not stream.isatty():
        return text
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=colour, bold=True)


def _print(lines: Iterable[str]) -> None:
    """Print the lines, which hold no control characters but ours."""
    text = "".join(line + "\n" for line in lines)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    _write(text.encode(encoding, "backslashreplace"))


def _print_page(text: str) -> None:
    """Show a long text: through the pager on a terminal, else as it is."""
    if sys.stdout is not None and sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        _print(text.splitlines())


def _print_json(value: Any) -> None:
    """Print one JSON value, in UTF-8 as JSON is, whatever the terminal's encoding."""
    try:
        data = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # A lone surrogate.
        data = json.dumps(value).encode()
    _write(data + b"\n")


def _write(data: bytes) -> bool:
    """Write to standard output; False where nobody reads it any more, which is no error."""
    if sys.stdout is None:
        raise _Failed(NO_OUTPUT, "standard output is closed")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python tries again at exit to write what is left, and must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return False
        raise _Failed(NO_OUTPUT, f"standard output: {error.strerror}") from None
    return True


def _say(text: str) -> None:
    """Tell a person what is no part of the output."""
    click.echo(text, err=True)


def _complain(text: str) -> None:
    _say(f"callback-agent: {printable(text)}")


# -- the reload log -------------------------------------------------------------------------------


def _log_path(log: str | None, pipe: str | None) -> str:
    """The file to show: the one that is named, else the running agent's, else the default."""
    from agent.settings import STANDARD_OUTPUT, Host, SettingsError, resolve

    path = log or os.environ.get("CALLBACK_AGENT_LOG")
    if not path:
        try:
            path = str(_ask(lambda agent: agent.status(), pipe)["settings"]["log"]["value"])
        except (_Failed, LookupError, TypeError) as error:
            try:
                path = resolve({}, os.environ, None, Host.here()).log
            except SettingsError as wrong:
                raise _Failed(USAGE, str(wrong)) from None
            if pipe:
                _complain(f"{error}; this is {path}")
    if path == STANDARD_OUTPUT:
        raise _Failed(
            USAGE,
            "the reload log goes to the agent's standard output and is no file: look where that"
            " goes (under systemd: journalctl -u callback-agent)",
        )
    return path
