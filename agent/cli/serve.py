"""The commands that need no running agent: `serve` and `check`."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import click

from agent.cli.completing import directories
from agent.cli.exits import USAGE, Failed
from agent.cli.findings import finding_line, tally
from agent.cli.output import paint, print_json, print_lines, say, utf8
from agent.cli.setting_options import given, setting_options
from agent.core.counting import count
from agent.core.diagnostic import Severity
from agent.settings import CHECK, SERVE, SettingsError, absolute_directory, group_id, read
from agent.settings.host import Host
from agent.timing import DEFAULTS, Timing


@click.command()
@setting_options(SERVE)
@click.pass_context
def serve(context: click.Context, /, **_: Any) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads.

    Exit status: 0 stopped, 2 bad usage or settings, 4 another agent holds the pipe.
    """
    from agent.daemon import signals

    with _start_errors():
        received = signals.start()
        from agent.daemon.run import run

        return run(given(context), received, _timing(context))


@click.command()
@click.argument("paths", metavar="[DIR]...", nargs=-1, shell_complete=directories)
@setting_options(CHECK)
@click.option("--json", "as_json", is_flag=True, help="Print {diagnostics: [...]}.")
@click.pass_context
def check(context: click.Context, /, paths: tuple[str, ...], as_json: bool, **_: Any) -> int:
    """Read directories as serve would, and print every finding.

    Without DIR: the directories that serve would read. Changes nothing and needs no agent.

    Exit status: 0 no errors, 1 errors.
    """
    from agent.daemon import process

    with _start_errors():
        process.prepare(serves=False)
        from agent.check import check_directories
        from agent.daemon.descriptors import raise_fd_limit

        settings = read(given(context))
        group = group_id(settings.trusted_group, settings.sources["trusted_group"])
        host = Host.here()
        named = [absolute_directory(utf8(path, "DIR"), host) for path in paths if path]
        directories = tuple(dict.fromkeys(named)) or settings.directories
        process.leave_working_directory()
        raise_fd_limit()
        found = check_directories(
            directories,
            settings.languages,
            settings.unsafe_permissions,
            group,
            _timing(context),
        )
    findings = [*settings.findings, *map(settings.with_source, found)]
    if as_json:
        print_json({"diagnostics": [finding.as_json() for finding in findings]})
    else:
        print_lines(finding_line(finding, paint) for finding in findings)
        number = count(len(directories), "directory", "directories")
        say(f"{number}: {tally(findings)}")
    return 1 if any(finding.severity is Severity.ERROR for finding in findings) else 0


def _timing(context: click.Context) -> Timing:
    """The times and limits that `main` was given, or the defaults."""
    return context.find_object(Timing) or DEFAULTS


@contextlib.contextmanager
def _start_errors() -> Iterator[None]:
    """Report the errors of a start, so that they are not taken for errors of the output."""
    try:
        yield
    except SettingsError as error:
        raise Failed(USAGE, str(error)) from None
    except (OSError, RuntimeError, ImportError) as error:
        if isinstance(error, RuntimeError) and "thread" not in str(error):
            raise
        raise Failed(USAGE, _missing_resource(error)) from None
    except BaseException as error:
        # Native code raises it in place of an abort. It cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise Failed(1, f"a library failed: {error}") from None


def _missing_resource(error: Exception) -> str:
    """One line: what the system does not provide, and where it is limited."""
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
