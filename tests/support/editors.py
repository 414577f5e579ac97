"""Real editors and tools, driven as a person drives them: each puts a new text into a file.

Every one of them changes a file in a way of its own: in place, by rename, with an older time, or
several files one after the other. None of them is imitated here.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

#: Seconds until a tool that does not end is a failure.
PATIENCE = 60.0

#: Before a tool: nothing else interrupts it between two steps that the agent should see as one
#: edit. Where this is not allowed, `nice` says so and runs it all the same.
_FIRST = ("nice", "-n", "-19")

#: Puts this text into this file.
Edit = Callable[[Path, str], None]


def need(*tools: str) -> None:
    """Skip the test where one of these programs is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end; what it printed. It must succeed."""
    done = subprocess.run(
        [*_FIRST, *map(str, command)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Terminal:
    """A program on a terminal of its own, and a person who waits for what they see, then types."""

    def __init__(self, *command: str, cwd: Path) -> None:
        # A plain terminal: a cleverer one is asked questions, which nobody here answers.
        environ = {**os.environ, "TERM": "vt100", "LC_ALL": "C.UTF-8", "HOME": str(cwd)}
        self.screen = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:  # pragma: no cover  (the child becomes the program)
            try:
                os.chdir(cwd)
                os.execvpe(_FIRST[0], [*_FIRST, *command], environ)  # noqa: S606
            finally:
                os._exit(127)

    def sees(self, text: str) -> Terminal:
        """Wait until the program has shown this text."""
        end = time.monotonic() + PATIENCE
        while text.encode() not in self.screen:
            assert time.monotonic() < end, f"never saw {text!r} in {self.screen!r}"
            self._look()
        return self

    def types(self, keys: str) -> Terminal:
        """Type these keys. What the screen showed before is forgotten."""
        self.screen = b""
        os.write(self._fd, keys.encode())
        return self

    def ends(self) -> None:
        """Wait until the program has ended; it must have succeeded."""
        end = time.monotonic() + PATIENCE
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                self.abandon()
                raise AssertionError(f"did not end: {self.screen!r}")
            self._look()
        os.close(self._fd)
        assert os.waitstatus_to_exitcode(status) == 0, self.screen

    def abandon(self) -> None:
        """End the program as a closed window does."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)

    def _look(self) -> None:
        ready, _, _ = select.select([self._fd], [], [], 0.02)
        if ready:
            # A terminal whose program has ended reads as an error on Linux.
            with contextlib.suppress(OSError):
                self.screen += os.read(self._fd, 65536)


def vim_opens(file: Path) -> Terminal:
    """A vim that shows the file, with its swap file beside it."""
    need("vim")
    vim = Terminal("vim", "-Nu", "NONE", file.name, cwd=file.parent)
    # It shows `"NAME" 3L, 60B` when it has read the file.
    return vim.sees(f'"{file.name}"')


def vim(file: Path, text: str) -> None:
    """Open it in vim, delete all, type the text, `:wq`. vim saves by rename."""
    vim_opens(file).types(f":set bsk= bk\r:%d\ri{text.rstrip()}\x1b:wq\r").ends()


def vim_was_interrupted(file: Path, quiet: float) -> bool:
    """Whether vim may have taken so many seconds from the rename of the old file to the backup,
    which it leaves, to the writing of the new one. In between there is no file of this name."""
    backup = file.with_name(f"{file.name}~")
    return file.stat().st_mtime_ns - backup.stat().st_ctime_ns > quiet * 1e9


def vim_in_place(file: Path, text: str) -> None:
    """As vim, with `backupcopy=yes`, which many set so that links and owners stay."""
    vim_opens(file).types(f":set bsk= bkc=yes\r:%d\ri{text.rstrip()}\x1b:wq\r").ends()


def nano(file: Path, text: str) -> None:
    """Open it in nano, cut all (Alt-T), type the text, save and leave. nano writes in place."""
    need("nano")
    editor = Terminal("nano", "-I", file.name, cwd=file.parent).sees("GNU nano")
    editor.types("\x1bt" + text.rstrip().replace("\n", "\r"))
    editor.types("\x0f").sees("Write").types("\r").sees("Wrote").types("\x18").ends()


def sed(file: Path, text: str) -> None:
    """`sed -i`: every line but the last deleted, that one put right. By rename."""
    need("sed")
    lines = "\\\n".join(line.replace("\\", "\\\\") for line in text.rstrip("\n").split("\n"))
    run("sed", "-i", "-e", f"$!d;c\\\n{lines}", file)


def _aside(file: Path, text: str) -> Path:
    """The text as a file outside of the callback directory, as somebody works on it."""
    desk = file.parent.parent / f"desk-{file.parent.name}"
    desk.mkdir(exist_ok=True)
    aside = desk / file.name
    aside.write_text(text)
    return aside


def cat(file: Path, text: str) -> None:
    """`cat new > file`, by a shell: truncated, then written."""
    run("sh", "-c", 'cat "$1" > "$2"', "sh", _aside(file, text), file)


def cp(file: Path, text: str) -> None:
    """`cp`: in place."""
    run("cp", _aside(file, text), file)


def _old(file: Path) -> None:
    """Give it the time of a file from a backup."""
    run("touch", "-d", "2001-02-03 04:05:06", file)


def cp_p(file: Path, text: str) -> None:
    """`cp -p` of an older file: in place, then the time is set back."""
    aside = _aside(file, text)
    _old(aside)
    run("cp", "-p", aside, file)


def rsync(file: Path, text: str) -> None:
    """`rsync -a` of an older file: by rename, with the old time."""
    need("rsync")
    aside = _aside(file, text)
    _old(aside)
    # Without -I, rsync itself would pass over a file of the same size and time.
    run("rsync", "-a", "-I", aside, file)


def mv(file: Path, text: str) -> None:
    """`mv` of a new file over the old one."""
    run("mv", _aside(file, text), file)


def ln(link: Path, target: Path) -> None:
    """`ln -sfn`: switch a link."""
    run("ln", "-sfn", target, link)


#: Writers that keep the inode: the file is truncated and written again.
IN_PLACE: Mapping[str, Edit] = {
    "cat": cat,
    "cp": cp,
    "nano": nano,
    "vim-backupcopy": vim_in_place,
}

#: Writers that put another inode in the file's place.
BY_RENAME: Mapping[str, Edit] = {"vim": vim, "sed": sed, "mv": mv, "rsync": rsync}

#: Writers that leave a file with an older time than the one before.
OLDER: Mapping[str, Edit] = {"rsync": rsync, "cp-p": cp_p}


class Git:
    """A git work tree in a callback directory."""

    def __init__(self, directory: Path) -> None:
        need("git")
        self.directory = directory
        self("init", "-q", "-b", "main")

    def __call__(self, *arguments: str) -> str:
        settings = ("user.name=a", "user.email=a@b", "core.hooksPath=/dev/null", "gc.auto=0")
        options = [part for setting in settings for part in ("-c", setting)]
        return run("git", *options, *arguments, cwd=self.directory)

    def commit(self, branch: str, files: Mapping[str, str]) -> None:
        """A branch that has exactly these files, and is checked out."""
        self("checkout", "-q", "--orphan", branch)
        for old in self.directory.iterdir():
            if old.name != ".git":
                old.unlink()
        for name, text in files.items():
            (self.directory / name).write_text(text)
        self("add", "-A")
        self("commit", "-q", "-m", branch)

    def checkout(self, branch: str) -> None:
        """`git checkout BRANCH`: unlinks each changed file, then writes it."""
        self("checkout", "-q", branch)
