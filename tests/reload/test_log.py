"""The reload log: lines for people, records for programs, and a disk that fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.reload.log import Log, Record, level, text
from support.agents import Agent, wait_for, write

FINDING = {
    "severity": "warning",
    "code": "never-fires",
    "path": "/cb/callbacks.conf",
    "line": 3,
    "column": 8,
    "message": "this never fires",
}


def record(**fields: Any) -> Record:
    whole = {
        "time": "2014-01-20T17:58:36.123Z",
        "event": "reloaded",
        "generation": 2,
        "digest": "sha256:x",
        "callbacks": 1,
        "duration_ms": 12.6,
        "causes": [],
        "changes": [],
        "held": [],
        "diagnostics": [],
        **fields,
    }
    return cast(Record, whole)


def encoded(**fields: Any) -> bytes:
    return json.dumps(record(**fields)).encode()


def log(path: Path, form: str = "json") -> Log:
    return Log(str(path), form, "farm[7]")


# As text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "INFO"),
        ({"diagnostics": [{**FINDING, "severity": "note"}]}, "INFO"),
        ({"diagnostics": [FINDING]}, "WARNING"),
        ({"diagnostics": [FINDING, {**FINDING, "severity": "error"}]}, "ERROR"),
        ({"held": [{"directory": "/cb", "reason": "fault"}]}, "ERROR"),
    ],
)
def test_the_level_is_that_of_the_worst(fields: dict[str, Any], expected: str) -> None:
    assert level(record(**fields)) == expected
    assert f" farm[7]: {expected}: reloaded: " in text(record(**fields), "farm[7]").split("\n")[0]


def test_a_record_is_a_line_and_an_indented_one_for_each_change_and_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = {"path": "/cb/a.py", "trigger": "done-job-self", "line": 4, "digest": "sha256:y"}
    lines = text(
        record(
            event="held",
            changes=[{"change": "added", **change}, {"change": "removed", **change}],
            held=[{"directory": "/cb", "reason": "error"}],
            diagnostics=[FINDING, {**FINDING, "line": None, "column": None, "hint": "mend it"}],
        ),
        "farm[7]",
    ).split("\n")
    assert re.fullmatch(
        r"\[[A-Z][a-z]{2} \d\d, \d{4} \d\d:\d\d:\d\d\] farm\[7\]: ERROR: held: generation 2,"
        r" 1 callback served \(13 ms\)",
        lines[0],
    )
    assert lines[1:] == [
        "    added: /cb/a.py: done-job-self (line 4)",
        "    removed: /cb/a.py: done-job-self (line 4)",
        "    held: /cb (error)",
        "    /cb/callbacks.conf:3:8: warning: this never fires [never-fires]",
        "    /cb/callbacks.conf:1:1: warning: this never fires; mend it [never-fires]",
        "",
    ]


@given(st.text(), st.text())
def test_no_name_or_message_can_write_a_line_of_its_own(name: str, message: str) -> None:
    change = {"change": "added", "path": name, "trigger": name, "line": 1, "digest": "x"}
    finding = {**FINDING, "path": name, "message": message, "hint": message}
    held = {"directory": name, "reason": "error"}
    lines = text(record(changes=[change], held=[held], diagnostics=[finding])).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


# The file ----------------------------------------------------------------------------------------


def test_records_are_appended_one_a_line(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "reload.log"
    path.write_text("what was there\n")
    one = log(path)
    one.write(encoded(generation=1))
    one.write(encoded(generation=2))
    first, *records = path.read_text().splitlines()
    assert first == "what was there"
    assert [json.loads(r)["generation"] for r in records] == [1, 2]
    assert messages == []
    as_text = log(path, "text")
    as_text.write(encoded())
    assert path.read_text().endswith("(13 ms)\n")


def test_the_log_survives_logrotate_in_both_its_styles(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    one = log(path)
    one.write(encoded(generation=1))
    path.rename(tmp_path / "reload.log.1")
    one.write(encoded(generation=2))
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [2]
    os.truncate(path, 0)
    one.write(encoded(generation=3))
    # No hole where the old text was.
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [3]


def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "a" / "b" / "reload.log"
    one = log(path)
    one.write(encoded())
    assert (path.read_bytes(), messages) == (encoded() + b"\n", [])


def test_half_a_line_that_a_crash_left_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    path.write_bytes(b'{"time":"2014')
    one = log(path)
    one.write(encoded())
    assert path.read_bytes().splitlines()[1] == encoded()


def test_what_cannot_be_written_waits_and_is_reported_once(
    tmp_path: Path, messages: list[str]
) -> None:
    path = tmp_path / "reload.log"
    path.mkdir()
    one = log(path)
    for generation in (1, 2, 3):
        one.write(encoded(generation=generation))
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
    one.write(encoded(generation=1))
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
    one.write(encoded(generation=2))
    assert path.read_bytes() == encoded(generation=1) + b"\n"
    assert len(messages) == 1
    full = False
    one.write(encoded(generation=3))
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [1, 2, 3]


def test_only_so_many_wait_and_the_loss_is_reported(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "reload.log"
    path.mkdir()
    one = Log(str(path), "json", "", max_waiting=2)
    for generation in range(5):
        one.write(encoded(generation=generation))
    path.rmdir()
    one.flush()
    assert [json.loads(r)["generation"] for r in path.read_text().splitlines()] == [3, 4]
    assert "3 records" in messages[-1]


def test_a_pipe_in_the_logs_place_does_not_stop_anybody(tmp_path: Path) -> None:
    path = tmp_path / "reload.log"
    os.mkfifo(path)
    one = log(path)
    one.write(encoded())
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
        assert ": ERROR: started: generation 1, 1 callback served (" in first
        assert f"[{agent.process.pid}]: " in first
        indented = [output.readline().decode() for _ in range(3)]
        assert all(line.startswith("    ") for line in indented)
        assert f"{directory}/callbacks.conf:2:8: error: " in indented[2]
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
    with open(reading, "rb") as output:
        assert b": started: " in output.readline()
    wait_for(agent.answers, "its answer")
    write(directory, "a.py = done-job-self\n", a_py="x = 1\n")
    agent.reload()
    assert [code for _, _, code in agent.served()] == ["x = 1\n"]
    assert agent.stop() == 0
