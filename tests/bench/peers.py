"""What one would use instead of the agent, started here and private to the run."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.generator import Server
from bench.process import BenchError, end, running, wait_until

# Debian's package for each program that the benchmark compares with.
PACKAGES = {
    "redis-server": "redis-server",
    "watchman": "watchman",
    "inotifywait": "inotify-tools",
}
# How long one notification may take, in seconds.
MESSAGE_LIMIT = 10.0


def missing() -> list[str]:
    """The programs to compare with that are not installed."""
    return [program for program in PACKAGES if shutil.which(program) is None]


@contextmanager
def redis(folder: Path, value_length: int) -> Iterator[Server]:
    """A redis-server on a Unix socket only, nothing on disk, that holds one value."""
    path = folder / "redis"
    log = folder / "redis.log"
    command = [
        "redis-server", "--port", "0", "--unixsocket", str(path), "--save", "",
        "--appendonly", "no", "--dir", str(folder), "--loglevel", "warning",
    ]  # fmt: skip
    with running(command, log) as process:
        wait_until(lambda: accepts(path), process, log)
        value = b"v" * value_length
        answer = b"$%d\r\n%s\r\n" % (value_length, value)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"*3\r\n$3\r\nSET\r\n$6\r\nanswer\r\n" + answer)
            said = connection.recv(100)
        if said != b"+OK\r\n":
            raise BenchError(f"redis answered SET with {said!r}, expected +OK")
        request = b"*2\r\n$3\r\nGET\r\n$6\r\nanswer\r\n"
        yield Server("redis GET", process.pid, path, request, answer, "bulk")


@contextmanager
def echo(folder: Path, request: bytes) -> Iterator[Server]:
    """A bare echo on the agent's event loop, asked the agent's request."""
    path = folder / "echo"
    log = folder / "echo.log"
    script = Path(__file__).resolve().parent / "echo.py"
    with running([sys.executable, script, path], log) as process:
        wait_until(lambda: accepts(path), process, log)
        yield Server("bare echo", process.pid, path, request, request)


class Subscription:
    """A watchman subscription to one directory's callbacks.conf."""

    def __init__(self, path: Path, directory: Path, pid: int) -> None:
        self.pid = pid
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(MESSAGE_LIMIT)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._command("watch", str(directory))
        query = {"expression": ["name", "callbacks.conf"], "fields": ["name", "mtime_ns"]}
        self._command("subscribe", str(directory), "bench", query)
        self._lines.readline()  # the files as they are now

    def _command(self, *command: object) -> None:
        self._socket.sendall(json.dumps(command).encode() + b"\n")
        answer = json.loads(self._lines.readline())
        if "error" in answer:
            raise BenchError(f"watchman refused {command!r}: {answer['error']}")

    def wait(self, mtime_ns: int) -> None:
        """Wait for the message about the callbacks.conf with this mtime; skip older ones."""
        while True:
            message = json.loads(self._lines.readline())
            if any(file["mtime_ns"] == mtime_ns for file in message.get("files", [])):
                return

    def close(self) -> None:
        """Hang up, so that the server can end."""
        self._lines.close()
        self._socket.close()


@contextmanager
def watchman(folder: Path, directory: Path) -> Iterator[Subscription]:
    """A watchman server of our own, with its defaults and no site's configuration."""
    home = folder / "watchman"
    home.mkdir(mode=0o700)
    path = home / "socket"
    log = home / "out"
    command = [
        "env", "WATCHMAN_CONFIG_FILE=/nonexistent", "watchman", "--foreground",
        "--no-save-state", f"--sockname={path}", f"--logfile={home / 'log'}",
        f"--pidfile={home / 'pid'}", f"--statefile={home / 'state'}",
    ]  # fmt: skip
    with running(command, log) as process:
        wait_until(lambda: accepts(path), process, log)
        subscription = Subscription(path, directory, process.pid)
        try:
            yield subscription
        finally:
            subscription.close()


class Notices:
    """The kernel's bare notifications of renames in one directory, told by inotifywait."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            ["inotifywait", "--monitor", "--event", "moved_to", "--format", "%f", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out = self._process.stdout.fileno()
        for line in self._process.stderr:
            if b"established" in line:
                break

    def forget(self) -> None:
        """Drop what was told so far."""
        os.set_blocking(self._out, False)
        try:
            while os.read(self._out, 65536):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self._out, True)

    def wait(self) -> None:
        """Wait for the next one."""
        if not os.read(self._out, 65536):
            raise BenchError("inotifywait ended by itself")

    def close(self) -> None:
        """End inotifywait."""
        end(self._process)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def accepts(path: Path) -> bool:
    """Whether a server accepts connections at this socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
