"""A real terminal, of any size, in which commands run: tmux, on a server of its own."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from support.agents import wait_for

#: Is not there on every machine. The tests that need it are skipped then.
HAS_TMUX = shutil.which("tmux") is not None

#: Runs a command. Its exit status then becomes the title of the terminal, which arrives after all
#: that the command has written. tmux itself does not always report a status.
_WRAPPER = (
    r"""trap : INT; n=$1; shift; "$@"; printf '\033]2;run %s: %s\033\\' "$n" $?; exec sleep 1000"""
)

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Screen(NamedTuple):
    """What was on the terminal when a command had ended."""

    #: The lines without styles, and without blank lines at the end.
    lines: list[str]
    #: The same with styles, as escape sequences.
    styled: list[str]
    status: int
    #: How many lines scrolled off the top.
    scrolled: int

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Terminal:
    """One terminal of `columns` x `lines`. Use `terminal`, which ends it."""

    def __init__(self, folder: Path, columns: int, lines: int, environ: Mapping[str, str]) -> None:
        self._server = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._environ = dict(environ)
        size = ("-x", str(columns), "-y", str(lines))
        self._runs = 0
        self._tmux(
            *("new-session", "-d", *size, "sleep 1000", ";"),
            *("set-option", "-g", "status", "off", ";"),
            *("set-option", "-g", "window-size", "manual", ";"),
            *("set-option", "-g", "default-terminal", "tmux-256color"),
        )
        self.resize(columns, lines)

    def _tmux(self, *arguments: str) -> str:
        environ = {k: v for k, v in self._environ.items() if k != "TMUX"}
        done = subprocess.run(
            [*self._server, *arguments], env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def _ask(self, variable: str) -> str:
        return self._tmux("display-message", "-p", f"#{{{variable}}}").strip()

    def start(self, command: Sequence[str], **environ: str) -> None:
        """Start a command in place of what runs, on an empty screen."""
        settings = [f"-e{name}={value}" for name, value in environ.items()]
        self._runs += 1
        wrapped = ["sh", "-c", _WRAPPER, "sh", str(self._runs), *command]
        # In one call: the command may write before another one clears what scrolled off.
        self._tmux("clear-history", ";", "respawn-pane", "-k", *settings, *wrapped)

    def run(self, command: Sequence[str], **environ: str) -> Screen:
        """Run a command to its end."""
        self.start(command, **environ)
        return self.ended()

    def ended(self) -> Screen:
        """The screen when the command has ended."""
        ended = re.compile(rf"run {self._runs}: ([0-9]+)")
        title = wait_for(lambda: ended.fullmatch(self._ask("pane_title")), "the command's end")
        assert title is not None
        scrolled = int(self._ask("history_size"))
        return Screen(self.lines(), self.styled(), int(title[1]), scrolled)

    def styled(self) -> list[str]:
        """The lines that are on the screen now, with their styles."""
        return self._tmux("capture-pane", "-p", "-e").rstrip("\n").split("\n")

    def lines(self) -> list[str]:
        """The lines that are on the screen now."""
        return [_STYLE.sub("", line).rstrip() for line in self.styled()]

    def shows(self, text: str) -> list[str]:
        """Wait until a text is on the screen; the lines that are on it then."""
        seen: list[list[str]] = [[]]

        def found() -> bool:
            seen[0] = self.lines()
            return text in "\n".join(seen[0])

        with contextlib.suppress(AssertionError):
            wait_for(found)
            return seen[0]
        raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(seen[0]))

    def press(self, *keys: str) -> None:
        """Press keys, named as tmux names them: `q`, `Enter`, `C-c`."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def close(self) -> None:
        """End what runs, and the terminal."""
        with contextlib.suppress(AssertionError):
            self._tmux("kill-server")


@contextlib.contextmanager
def terminal(
    folder: Path, environ: Mapping[str, str], columns: int = 80, lines: int = 24
) -> Iterator[Terminal]:
    """A terminal, which is ended at the end. The path of `folder` must be short, as for a pipe."""
    made = Terminal(folder, columns, lines, environ)
    try:
        yield made
    finally:
        made.close()
