"""The reload log as a file: records are appended, and a disk that fails stops nobody."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.reload.log import MAX_HISTORY, MAX_HISTORY_BYTES, History, Log
from agent.rpc import results
from support.agents import Agent, wait_for, write
from support.records import record


def log(path: Path, form: str = "json") -> Log:
    return Log(str(path), form, "farm[7]")


def put(one: Log, generation: int = 2) -> bytes:
    """Write a record, and give its line."""
    made = record(generation=generation)
    one.write(made, results.encode(made))
    return results.encode(made) + b"\n"


# The history -------------------------------------------------------------------------------------


def test_the_history_says_whether_it_has_all_that_is_wanted() -> None:
    history = History()
    assert history.newest_exactly(0) == []
    assert history.newest_exactly(1) is None
    for number in range(MAX_HISTORY + 1):
        history.add(b"%d" % number)
    assert history.newest_exactly(2) == [b"%d" % (MAX_HISTORY - 1), b"%d" % MAX_HISTORY]
    kept = history.newest_exactly(MAX_HISTORY)
    assert kept is not None
    assert (len(kept), kept[0]) == (MAX_HISTORY, b"1")
    assert history.newest_exactly(MAX_HISTORY + 1) is None
    assert history.newest_exactly(-1) is None
    # The last one is always kept.
    history.add(b"x" * (MAX_HISTORY_BYTES + 1))
    assert history.newest_exactly(1) is not None
    assert history.newest_exactly(2) is None


# The file ----------------------------------------------------------------------------------------


def test_records_are_appended_one_a_line(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "reload.log"
    path.write_text("what was there\n")
    one = log(path)
    put(one, 1)
    put(one, 2)
    first, *records = path.read_text().splitlines()
    assert first == "what was there"
    assert [json.loads(r)["generation"] for r in records] == [1, 2]
    assert messages == []
    as_text = log(path, "text")
    put(as_text)
    assert path.read_text().endswith("(3 ms)\n")


def test_the_log_survives_logrotate_in_both_its_styles(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    one = log(path)
    put(one, 1)
    path.rename(tmp_path / "reload.log.1")
    put(one, 2)
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [2]
    os.truncate(path, 0)
    put(one, 3)
    # No hole where the old text was.
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [3]


def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "a" / "b" / "reload.log"
    one = log(path)
    line = put(one)
    assert (path.read_bytes(), messages) == (line, [])


def test_half_a_line_that_a_crash_left_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    path.write_bytes(b'{"time":"2014')
    one = log(path)
    line = put(one)
    assert path.read_bytes().splitlines(keepends=True)[1] == line


def test_what_cannot_be_written_waits_and_is_reported_once(
    tmp_path: Path, messages: list[str]
) -> None:
    path = tmp_path / "reload.log"
    path.mkdir()
    one = log(path)
    for generation in (1, 2, 3):
        put(one, generation)
    assert one.waiting
    assert len(messages) == 1
    assert str(path) in messages[0]
    path.rmdir()
    one.flush()
    assert not one.waiting
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [1, 2, 3]
    assert len(messages) == 2


def test_on_a_full_disk_no_half_record_stays(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reload.log"
    one = log(path)
    first = put(one, 1)
    real = os.write
    full = True

    def write_some(fd: int, data: bytes) -> int:
        if not full:
            return real(fd, data)
        if len(data) > 20:
            return real(fd, bytes(data[:20]))
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", write_some)
    # The last bytes do not fit any more: every call writes 20, until there are no more than that.
    put(one, 2)
    assert path.read_bytes() == first
    assert len(messages) == 1
    full = False
    put(one, 3)
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [1, 2, 3]


def test_only_so_many_wait_and_the_loss_is_reported(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "reload.log"
    path.mkdir()
    one = Log(str(path), "json", "", max_waiting=2)
    for generation in range(1, 6):
        put(one, generation)
    path.rmdir()
    one.flush()
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [4, 5]
    assert "3 records" in messages[-1]


def test_a_pipe_in_the_logs_place_does_not_stop_anybody(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    os.mkfifo(path)
    one = log(path)
    put(one)
    one.flush()


# The log of a real agent -------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_never_stops_the_serving(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py="0\n")
    agent = Agent(tmp_path, directory)
    agent.log.mkdir()
    agent.start()
    try:
        for number in range(3):
            write(directory, "a.py = done-job-self\n", a_py=f"x = {number}\n")
            agent.reload()
            assert agent.served() == [(f"{directory}/a.py", "done-job-self", f"x = {number}\n")]
        # It is reported once on standard error, and in status.
        wait_for(lambda: "cannot be written" in agent.errors.read_text())
        assert agent.errors.read_text().count("cannot be written") == 1
        assert any("cannot be written" in note for note in agent.status()["notes"])
        assert agent.status()["state"] == "ok"
        agent.log.rmdir()
        # It resumes automatically, and nothing is lost.
        wait_for(lambda: len(agent.records()) == len(agent.history()))
        assert agent.records() == agent.history()
    finally:
        assert agent.stop() == 0
    assert agent.records()[-1]["event"] == "stopped"


def test_as_text_by_default_and_to_standard_output_with_a_hyphen(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\nb.py = x\n", a_py="0\n")
    agent = Agent(tmp_path, directory)
    agent.flags = ["--log", "-"]
    with agent.errors.open("ab") as errors:
        agent.process = subprocess.Popen(
            agent.command, stdout=subprocess.PIPE, stderr=errors, cwd=tmp_path
        )
    assert agent.process.stdout is not None
    with agent.process.stdout as output:
        first = output.readline().decode()
        assert f": ERROR: started: {directory}/callbacks.conf:2:" in first
        assert "generation 1, 1 callback served (" in first
        assert f"[{agent.process.pid}]: " in first
        assert agent.stop() == 0
        assert ": stopped: " in output.read().decode()
    assert not agent.log.exists()


def test_standard_output_and_standard_error_need_not_be_read(tmp_path: Path) -> None:
    """As in `serve --log - 2>&1 | head -1`."""
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 0\n")
    agent = Agent(tmp_path, directory)
    agent.flags = ["--log", "-"]
    reading, writing = os.pipe()
    agent.process = subprocess.Popen(
        agent.command, stdout=writing, stderr=writing, cwd=tmp_path, close_fds=True
    )
    os.close(writing)
    try:
        with open(reading, "rb") as output:
            # Beside the line that says what is served.
            assert any(b": started: " in output.readline() for _ in range(2))
        wait_for(agent.answers, "its answer")
        write(directory, "a.py = done-job-self\n", a_py="x = 1\n")
        agent.reload()
        assert [code for _, _, code in agent.served()] == ["x = 1\n"]
    finally:
        assert agent.stop() == 0
