"""Row 24: the reload log or standard error is a pipe or a file that takes nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.messages import MessageHandler
from agent.reload import log as log_module
from agent.reload.log import Log
from agent.reload.writer import Writer, write_all
from faults.steps import linux
from support.agents import DEADLINE, Agent, wait_for, write
from support.records import record


class Stalled:
    """A pipe that is full: who writes to it waits until somebody reads."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.writer, False)
        self.filled = 0
        try:
            while True:
                self.filled += os.write(self.writer, b"#" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def read_until(self, what: bytes) -> bytes:
        """What comes after the filling, until `what` is in it."""
        found = b""
        os.set_blocking(self.reader, False)

        def come() -> bool:
            nonlocal found
            try:
                found += os.read(self.reader, 65536)
            except BlockingIOError:
                return False
            return what in found

        wait_for(come, repr(what))
        return found[self.filled :]


@pytest.fixture
def stalled() -> Iterator[Stalled]:
    one = Stalled()
    yield one
    os.close(one.reader)
    os.close(one.writer)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    cb = write(tmp_path / "cb", "a.py = done-job-self\nb.qcb = done-job-self\n", a_py="x = 1\n")
    (cb / "b.qcb").write_text("kill\n")
    agent = Agent(tmp_path, cb)
    yield agent
    if agent.process is not None:
        agent.stop(signal.SIGKILL)


def redirect(agent: Agent, stalled: Stalled, number: int) -> None:
    """Have the agent started with a descriptor of its own on the pipe, as a shell does it."""
    path = f"/proc/{os.getpid()}/fd/{stalled.writer}"
    agent.prefix = ["sh", "-c", f'exec "$@" {number}>{path}', "sh"]


@linux
def test_row_24_the_log_goes_into_a_pipe_that_nobody_reads(agent: Agent, stalled: Stalled) -> None:
    agent.flags += ["--log", "-"]
    redirect(agent, stalled, 1)
    agent.start()
    directory = agent.directories[0]
    # An edit, a removal, a reload: all as ever.
    (directory / "a.py").write_text("x = 2\n")
    wait_for(lambda: agent.served()[0][2] == "x = 2\n", "the edit")
    (directory / "b.qcb").unlink()
    wait_for(lambda: agent.fires("done-job-self") == ["a.py"], "the removal")
    agent.reload()
    assert agent.stop() == 0


@linux
def test_row_24_who_reads_again_gets_every_record_in_order(agent: Agent, stalled: Stalled) -> None:
    agent.flags += ["--log", "-"]
    redirect(agent, stalled, 1)
    agent.start()
    for number in range(5):
        (agent.directories[0] / "a.py").write_text(f"y = {number}\n")
        agent.reload()
    history = agent.history()
    assert len(history) > 5
    last = json.dumps(history[-1]["time"]).encode()
    records = [json.loads(line) for line in stalled.read_until(last + b",").splitlines()[:-1]]
    assert records == history[: len(records)]
    assert len(records) >= len(history) - 1
    os.set_blocking(stalled.reader, True)
    assert agent.stop() == 0


@linux
def test_row_24_standard_error_is_a_pipe_that_nobody_reads(agent: Agent, stalled: Stalled) -> None:
    redirect(agent, stalled, 2)
    agent.start()
    # Something to say, again and again.
    for _ in range(2):
        agent.pipe.unlink()
        wait_for(agent.answers, "the pipe, made again")
        (agent.directories[0] / "a.py").write_text("x = 3\n")
        agent.reload()
        assert agent.fires("done-job-self") == ["a.py", "b.qcb"]
    wait_for(lambda: str(agent.status()["notes"]).count("is made again") == 2, "the notes")
    # The log, which is a file, is written as ever.
    wait_for(lambda: len(agent.records()) == len(agent.history()), "the log")
    assert agent.stop() == 0


@linux
def test_row_24_an_inherited_descriptor_stays_blocking(agent: Agent, stalled: Stalled) -> None:
    agent.flags += ["--log", "-"]
    agent.prefix = ["sh", "-c", 'exec "$@" 1>&2', "sh"]
    agent.launch()
    wait_for(agent.answers, "an answer")
    assert os.get_blocking(2)
    assert agent.stop() == 0


def test_row_24_the_log_is_on_a_file_system_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    real = os.open

    def opens(path: str, *arguments: int) -> int:
        if path.endswith("reload.log"):
            opening.set()
            go_on.wait(60)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", opens)
    one = Log(str(tmp_path / "reload.log"), "json", "", max_waiting=3)
    began = time.monotonic()
    for number in range(200):
        one.write(record(), b'{"n":%d}' % number)
        assert opening.wait(DEADLINE)
    # Only the first waits.
    assert time.monotonic() - began < 190 * log_module.WRITE_WAIT
    go_on.set()
    wait_for(lambda: not one.waiting, "the log")
    found = [json.loads(line)["n"] for line in (tmp_path / "reload.log").read_text().splitlines()]
    assert found == [0, 198, 199]
    assert messages[-1].endswith("197 records lost")


# The queue ---------------------------------------------------------------------------------------


def test_dropped_messages_are_counted_and_reported(stalled: Stalled) -> None:
    saved = os.dup(2)
    os.dup2(stalled.writer, 2)
    try:
        handler = MessageHandler(max_waiting=3)
        for number in range(10):
            handler.handle(
                logging.LogRecord("x", logging.INFO, "", 0, "message %d", (number,), None)
            )
        said = stalled.read_until(b"this dropped").decode()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert "message 9" in said
    kept = said.count("message ")
    assert f"{10 - kept} messages before this dropped" in said


def test_the_queue_is_bounded_in_bytes() -> None:
    go_on = threading.Event()
    written: list[bytes] = []

    def slow(entry: bytes) -> None:
        go_on.wait(60)
        written.append(entry)

    dropped: list[int] = []
    writer = Writer("test", slow, lambda error: None, dropped.append, 1000, 100)
    for number in range(50):
        writer.put(b"%02d" % number * 10)
    go_on.set()
    wait_for(lambda: not writer.waiting, "the end of the queue")
    assert [entry[:2] for entry in written][-4:] == [b"46", b"47", b"48", b"49"]
    assert sum(map(len, written)) <= 120
    assert dropped == [50 - len(written)]


def test_a_descriptor_that_others_made_non_blocking_is_written_whole() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)
    thread = threading.Thread(target=write_all, args=(writer, data))
    thread.start()
    found = b""
    while len(found) < len(data):
        found += os.read(reader, 65536)
    thread.join()
    assert found == data
    os.close(reader)
    os.close(writer)


def test_an_order_is_kept_while_writing_fails_at_times() -> None:
    written: list[bytes] = []
    failures = iter([False, True, True, False, True] + [False] * 100)

    def write_some(entry: bytes) -> None:
        if next(failures):
            raise OSError(28, os.strerror(28))
        written.append(entry)

    errors: list[OSError] = []
    recovered: list[int] = []
    writer = Writer("test", write_some, errors.append, recovered.append, 1000, 1 << 20)
    for number in range(20):
        writer.put(b"%d" % number)
        writer.wait(1.0)
    wait_for(lambda: not writer.waiting, "the queue")
    assert written == [b"%d" % number for number in range(20)]
    assert len(errors) == 3
    assert set(recovered) == {0}
