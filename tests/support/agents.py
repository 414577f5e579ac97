"""A real agent, in a process of its own, for tests to talk to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent import client
from agent.timing import CheckLimits, Timing
from support import commands
from support.run_with import run_with
from support.valid import check_result

#: Seconds until a wait is a failure. Generous: a shared machine may stop for many seconds,
#: and a wait that succeeds does not take that long.
DEADLINE = 60.0
#: Seconds between two tries of a wait, at first and at most.
MIN_PAUSE, MAX_PAUSE = 0.002, 0.05

#: An edit waits for its check as long as a test waits. By default it is held after two seconds, and
#: on a busy machine a new helper may need longer than that.
PATIENT = Timing(checks=CheckLimits(max_wait=DEADLINE))

ALL_LANGUAGES = 'supervisor_language_flags = "qube,perl,python,mail"\n'

T = TypeVar("T")


def wait_for(what: Callable[[], T], message: str = "", deadline: float = DEADLINE) -> T:
    """The first true value of `what`, asked again and again; a failure after the deadline.

    The pauses grow with the time that has passed: a long wait must not take the processor from the
    agent that it waits for.
    """
    began = time.monotonic()
    end = began + deadline
    while True:
        # Read before `what` is asked: if this process was suspended, it asks once more.
        over = time.monotonic() > end
        value = what()
        if value:
            return value
        if over:
            raise AssertionError(f"not within {deadline} s: {message or what}")
        time.sleep(min(max(MIN_PAUSE, (time.monotonic() - began) / 20), MAX_PAUSE))


class Agent:
    """An agent on directories below a folder. Start it with `start`, or use `running`."""

    def __init__(self, folder: Path, *directories: Path, **environ: str) -> None:
        self.folder = folder
        self.pipe = folder / "pipe"
        self.log = folder / "reload.log"
        self.state = folder / "state"
        self.qb_conf = folder / "qb.conf"
        self.directories = directories
        self.environ = environ
        self.flags: list[str] = ["--log-format", "json"]
        #: Comes before the command, such as `setpriv ...` for another user.
        self.prefix: list[str] = []
        self.timing = PATIENT
        #: The arguments of Python; a test may give a program that makes something fail.
        self.program: list[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = folder / "stderr"
        if not self.qb_conf.exists():
            self.qb_conf.write_text(ALL_LANGUAGES)

    def use(self, timing: Timing) -> Agent:
        """Run with these times and limits from the next start on."""
        self.timing = timing
        return self

    @property
    def command(self) -> list[str]:
        program = self.program or run_with(self.timing)
        return [*self.prefix, sys.executable, *program, *self.arguments]

    @property
    def arguments(self) -> list[str]:
        """The command `serve` and its options."""
        found = ["serve"]
        if self.directories:
            found += ["--callback-path", ",".join(map(str, self.directories))]
        found += ["--qb-conf", str(self.qb_conf), "--pipe", str(self.pipe)]
        return [*found, "--log", str(self.log), "--state", str(self.state), *self.flags]

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process, and do not wait for it."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CALLBACK_AGENT")}
        environ |= self.environ
        with self.errors.open("ab") as errors:
            if self.prefix or self.program or not commands.can_fork(environ):
                self.process = subprocess.Popen(
                    self.command, env=environ, stderr=errors, cwd=self.folder
                )
            else:
                outputs = (1, errors.fileno())
                self.process = commands.fork(
                    self.arguments, self.folder, environ, outputs, self.timing
                )
        return self.process

    def start(self) -> Agent:
        """Start it, and wait until it answers and its first record is there. If that fails, no
        process is left."""
        process = self.launch()

        def started() -> bool:
            assert process.poll() is None, self.errors.read_text()
            return self.answers() and bool(self.status()["pid"] == process.pid)

        try:
            wait_for(started, "an answer of the agent")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def answers(self) -> bool:
        """Whether an agent answers and has its first record, which comes after its first answers.
        The pipe is there a moment before anybody listens."""
        with contextlib.suppress(client.AgentError):
            return bool(self.history())
        return False

    def messages(self) -> list[str]:
        """The lines of standard error, except those that say what it serves."""
        lines = self.errors.read_text().splitlines()
        return [line for line in lines if not line.startswith("callback-agent: serving ")]

    def fail_to_start(self) -> int:
        """Start it where the start must fail, and give its exit status."""
        process = self.launch()
        try:
            wait_for(lambda: process.poll() is not None, "the end")
        finally:
            status = self.stop()
        return status

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, and give its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of a method. It must be valid."""
        with client.Client(str(self.pipe), timeout=DEADLINE, restart=0) as one:
            result = one.call(method, params)
        check_result(method, result)
        return result

    def lookup(self, event: Any, **params: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.call("lookup", {"event": event, **params})
        return result

    def fires(self, event: Any, **params: Any) -> list[str]:
        """The names of the files that fire."""
        return [c["file"] for c in self.lookup(event, **params)["callbacks"]]

    def served(self) -> list[tuple[str, str, str]]:
        """Everything that is served: path, trigger and code."""
        listed = self.call("list", {"code": True})["callbacks"]
        return [(c["path"], c["trigger"], c.get("code", c.get("code_base64"))) for c in listed]

    def status(self) -> dict[str, Any]:
        result: dict[str, Any] = self.call("status")
        return result

    def reload(self) -> dict[str, Any]:
        record: dict[str, Any] = self.call("reload")
        return record

    def history(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = self.call("history")["records"]
        return records

    def records(self) -> list[dict[str, Any]]:
        """The records in the log, which is written as JSON unless a test says otherwise."""
        return [json.loads(line) for line in self.logged().splitlines()]

    def logs_all(self) -> None:
        """Wait until each record is in the log: a reload waits for that only for a moment."""
        wait_for(lambda: self.records()[-1:] == self.history()[-1:], "the newest record in the log")

    def logged(self) -> bytes:
        """The log; empty where there is none. Waits while a record is being written, or removed
        again: a reader may see a part of it meanwhile."""

        def whole() -> list[bytes]:
            try:
                found = self.log.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return [b""]
            return [] if found and not found.endswith(b"\n") else [found]

        (found,) = wait_for(whole, "a whole line at the end of the log")
        return found

    def connect(self) -> socket.socket:
        """A bare connection."""
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(DEADLINE)
        one.connect(str(self.pipe))
        return one


@contextlib.contextmanager
def running(folder: Path, *directories: Path, **environ: str) -> Iterator[Agent]:
    """An agent that answers, and is stopped at the end."""
    agent = Agent(folder, *directories, **environ)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """A short record as `status` has it."""
    omitted = {"changes": len(record["changes"]), "causes": 0, "held": 0, "diagnostics": 0}
    left_out = {"changes", "newly_held", "restored", "conf_diff"}
    return {k: v for k, v in record.items() if k not in left_out} | {"omitted": omitted}


def write(directory: Path, conf: str, **files: str) -> Path:
    """A callback directory: its callbacks.conf, and files by name (`a_py` is `a.py`)."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        stem, _, extension = name.rpartition("_")
        (directory / f"{stem}.{extension}").write_text(text)
    (directory / "callbacks.conf").write_text(conf)
    return directory
