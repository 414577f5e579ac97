"""`callback-agent log`: the last records, and what is added across rotation."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from cli.stand_in import (
    SOON,
    Run,
    StandIn,
    health,
    is_one_line,
)


def text_record(number: int) -> str:
    return f"[Jan 20, 2014 17:58:36] record {number}\n    one {number}\n    two {number}\n"


def json_record(number: int) -> str:
    return json.dumps({"record": number}) + "\n"


@pytest.mark.parametrize("written", [text_record, json_record])
def test_log_shows_the_last_records(
    written: Callable[[int], str], run: Run, tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    # Enough that the file is read from its end in several steps.
    log.write_text("".join(written(n) for n in range(10_000)))
    for options, count in (
        ([], 10),
        (["-n", "0"], 0),
        (["-n", "1"], 1),
        (["-n", "5000"], 5000),
        (["-n", "9999999"], 10_000),
    ):
        done = run("log", "--log", "reload.log", *options)
        assert done.stdout == "".join(written(n) for n in range(10_000 - count, 10_000))
        assert (done.returncode, done.stderr) == (0, "")
    log.write_text("")
    assert run("log", "--log", str(log)).stdout == ""


def test_log_finds_the_file_by_flag_variable_agent_and_default(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    for name in ("flag", "variable", "agent"):
        (tmp_path / name).write_text(f"[{name}]\n")
    setting = {"log": {"value": str(tmp_path / "agent"), "source": "--log"}}
    agent.well("status", health(settings=setting))
    pipe = {"CALLBACK_AGENT_PIPE": agent.path}
    variable = {"CALLBACK_AGENT_LOG": "variable"}
    assert run("log", "--log", "flag", **pipe, **variable).stdout == "[flag]\n"
    assert run("log", **pipe, **variable).stdout == "[variable]\n"
    assert run("log", **pipe).stdout == "[agent]\n"
    assert run("log", "--pipe", agent.path).stdout == "[agent]\n"
    agent.well("status", health(settings={"log": {"value": "-", "source": "--log"}}))
    done = run("log", **pipe)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_line(done.stderr)
    assert "standard output" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root's default log is a file of the system's")
def test_without_an_agent_the_default_log_is_shown(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "callback-agent"
    folder.mkdir(parents=True)
    (folder / "reload.log").write_text("[default]\n")
    done = run("log", CALLBACK_AGENT_PIPE=str(tmp_path / "none"))
    assert done.stdout == "[default]\n"


def test_a_log_that_is_not_there_or_cannot_be_read_is_told(run: Run, tmp_path: Path) -> None:
    done = run("log", "--log", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    done = run("log", "--log", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)


class Following:
    """`callback-agent log -f` on a file, and what it has shown so far."""

    def __init__(self, log: Path, environment: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent", "log", "-f", "--log", str(log), *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.shown = ""
        self.said = ""
        self._changed = threading.Condition()
        for stream, is_output in ((self.process.stdout, True), (self.process.stderr, False)):
            assert stream is not None
            threading.Thread(target=self._read, args=(stream, is_output), daemon=True).start()

    def _read(self, stream: TextIO, is_output: bool) -> None:
        for line in stream:
            with self._changed:
                if is_output:
                    self.shown += line
                else:
                    self.said += line
                self._changed.notify_all()

    def wait_for(self, shown: str = "", said: str = "") -> None:
        """Wait until exactly this is shown, and all of that is said."""
        with self._changed:
            there = self._changed.wait_for(
                lambda: self.shown == shown and said in self.said, timeout=SOON
            )
        assert there, (self.shown, self.said)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(SOON)


@pytest.fixture
def follow(environment: dict[str, str]) -> Iterator[Callable[..., Following]]:
    started: list[Following] = []

    def follow(log: Path, *options: str) -> Following:
        started.append(Following(log, environment, *options))
        return started[-1]

    yield follow
    for following in started:
        following.process.kill()
        following.process.wait(SOON)


def append(log: Path, text: str) -> None:
    with open(log, "a") as file:
        file.write(text)


def test_log_follows_across_a_rename_and_a_new_file(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    log.write_text(text_record(1) + text_record(2))
    following = follow(log, "-n", "1")
    shown = text_record(2)
    following.wait_for(shown)
    for generation in (3, 5):  # Each rotation twice.
        append(log, text_record(generation))
        old = log.rename(tmp_path / f"reload.log-2014012{generation}")
        # Who writes still has the old file open for a moment.
        append(old, text_record(99))
        log.write_text(text_record(generation + 1))
        shown += text_record(generation) + text_record(99) + text_record(generation + 1)
        following.wait_for(shown)
    assert following.interrupt() == 0
    assert following.said == ""


def test_log_follows_across_copy_and_truncate(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    log.write_text(text_record(1))
    following = follow(log)
    shown = text_record(1)
    following.wait_for(shown)
    for number in (2, 4):
        append(log, text_record(number) + text_record(number))
        shown += text_record(number) * 2
        following.wait_for(shown)
        shutil.copy(log, tmp_path / "reload.log.1")
        os.truncate(log, 0)
        append(log, text_record(number + 1))
        shown += text_record(number + 1)
        following.wait_for(shown)
    assert following.interrupt() == 0


#: How a log is rotated once. Each is given the log and how many files there are already.
ROTATIONS: dict[str, Callable[[Path, int], None]] = {}


def rotation(rotate: Callable[[Path, int], None]) -> Callable[[Path, int], None]:
    ROTATIONS[rotate.__name__] = rotate
    return rotate


def numbered(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


@rotation
def renamed(log: Path, there: int) -> None:
    for number in range(there, 0, -1):
        numbered(log, number).rename(numbered(log, number + 1))
    log.rename(numbered(log, 1))
    log.touch()


@rotation
def renamed_and_compressed(log: Path, there: int) -> None:
    for number in range(there, 0, -1):
        if numbered(log, number).exists():
            subprocess.run(["gzip", numbered(log, number)], check=True)
        packed = log.with_name(f"{log.name}.{number}.gz")
        packed.rename(packed.with_name(f"{log.name}.{number + 1}.gz"))
    log.rename(numbered(log, 1))
    log.touch()


@rotation
def renamed_and_removed(log: Path, there: int) -> None:
    """One rotated file is kept: what was followed is removed by the second rotation."""
    log.rename(numbered(log, 1))
    log.touch()


@rotation
def copied_and_truncated(log: Path, there: int) -> None:
    for number in range(there, 0, -1):
        numbered(log, number).rename(numbered(log, number + 1))
    shutil.copy(log, numbered(log, 1))
    os.truncate(log, 0)


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_log_follows_across_rotations_that_it_does_not_see(
    follow: Callable[..., Following], tmp_path: Path, rotate: str
) -> None:
    """As where its output waits for a reader, or its terminal was suspended."""
    log = tmp_path / "reload.log"
    # An older file, which was shown or not wanted.
    log.write_text(text_record(0))
    ROTATIONS[rotate](log, 0)
    append(log, text_record(1) + text_record(2))
    following = follow(log, "-n", "1")
    shown = text_record(2)
    following.wait_for(shown)
    following.process.send_signal(signal.SIGSTOP)
    number = 3
    for there in (1, 2, 3):
        before = log.stat().st_mtime_ns
        while log.stat().st_mtime_ns == before:  # Until the clock of the files has gone on.
            append(log, text_record(number))
            shown += text_record(number)
            number += 1
        if there < 3:
            ROTATIONS[rotate](log, there)
    following.process.send_signal(signal.SIGCONT)
    following.wait_for(shown)
    append(log, text_record(number))
    following.wait_for(shown + text_record(number))
    assert following.interrupt() == 0
    assert following.said == ""


def test_log_notices_a_truncated_log_that_is_as_long_as_before(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    log.write_text(text_record(1))
    following = follow(log)
    following.wait_for(text_record(1))
    following.process.send_signal(signal.SIGSTOP)
    append(log, text_record(2))
    shutil.copy(log, numbered(log, 1))
    log.write_text(text_record(3) + text_record(4) + text_record(5))
    following.process.send_signal(signal.SIGCONT)
    following.wait_for("".join(map(text_record, (1, 2, 3, 4, 5))))
    assert following.interrupt() == 0


def test_log_says_once_which_file_it_cannot_read_and_ends_if_it_is_the_log(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    numbered(log, 5).mkdir()  # Reported with the last records.
    log.write_text(text_record(1))
    following = follow(log)
    following.wait_for(text_record(1))
    numbered(log, 5).rename(numbered(log, 6))
    append(log, text_record(2))
    log.rename(numbered(log, 2))
    shown = text_record(1) + text_record(2)
    numbered(log, 1).mkdir()
    log.touch()
    # Though nothing comes after it.
    following.wait_for(shown, said=f"{numbered(log, 1)}: not a regular file")
    append(log, text_record(3))
    shown += text_record(3)
    following.wait_for(shown)
    append(log, text_record(4))
    shown += text_record(4)
    for number in (2, 1):
        numbered(log, number).rename(numbered(log, number + 1))
    log.rename(numbered(log, 1))
    log.mkdir()
    following.wait_for(shown, said=f"{log}: not a regular file")
    assert following.process.wait(SOON) == 1
    assert following.said.count("not a regular file") == 3


def test_log_shows_a_line_when_it_is_whole(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    log.write_text('{"record": 1}\n{"record"')
    following = follow(log)
    following.wait_for('{"record": 1}\n')
    append(log, ": 2}\n")
    following.wait_for('{"record": 1}\n{"record": 2}\n')
    assert following.interrupt() == 0


def test_log_waits_for_a_file_that_is_not_there_yet(
    follow: Callable[..., Following], tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    numbered(log, 1).write_text(text_record(0))  # It is older, also when the log was removed.
    following = follow(log)
    following.wait_for(said=f"waiting for {log}\n")
    (tmp_path / "new").write_text(text_record(1))
    (tmp_path / "new").rename(log)
    following.wait_for(text_record(0) + text_record(1))
    log.unlink()
    (tmp_path / "new").write_text(text_record(2))
    (tmp_path / "new").rename(log)
    following.wait_for("".join(map(text_record, (0, 1, 2))))
    assert following.interrupt() == 0


def test_following_ends_when_nobody_reads(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "reload.log"
    log.write_text(text_record(1))
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "log", "-f", "--log", str(log)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        deadline = time.monotonic() + SOON
        while process.poll() is None:
            assert time.monotonic() < deadline
            append(log, text_record(2))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert (process.returncode, process.stderr.read()) == (0, b"")
