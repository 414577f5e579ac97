"""The start of commands that do not only ask an agent: its errors, and the times of a run."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import click

from agent.cli.exits import USAGE, Failed
from agent.settings import SettingsError
from agent.timing import DEFAULTS, Timing


def timing(context: click.Context) -> Timing:
    """The times and limits that `main` was given, or the defaults."""
    return context.find_object(Timing) or DEFAULTS


@contextlib.contextmanager
def start_errors() -> Iterator[None]:
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
