"""`callback-agent log`: which records it shows, from which files, and in which form."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import log_times
from agent.cli.log_entries import split
from agent.reload.record_text import text
from cli.stand_in import SOON, Run, StandIn, health, is_one_line
from support.agents import running, write
from support.records import record

START = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)


def made(minute: int, **fields: Any) -> dict[str, Any]:
    """The record of a minute after 3 o'clock."""
    time = (START + timedelta(minutes=minute)).isoformat(timespec="milliseconds")
    fields = {"time": time.replace("+00:00", "Z"), "sequence": minute + 1, **fields}
    found: dict[str, Any] = msgspec.to_builtins(record(**fields))
    return found


def about(minute: int, path: str, event: str = "reloaded", **fields: Any) -> dict[str, Any]:
    cause = {"path": path, "change": "modified", "owner": "mia"}
    return made(minute, event=event, causes=[cause, {**cause, "path": "/cb/z.py"}], **fields)


def as_text(one: dict[str, Any]) -> str:
    return text(msgspec.convert(one, type(record())), "farm[7]")


def as_json(one: dict[str, Any]) -> str:
    return json.dumps(one, separators=(",", ":"), ensure_ascii=False) + "\n"


BOTH = pytest.mark.parametrize("written", [as_text, as_json])
Written = Callable[[dict[str, Any]], str]

RECORDS = [
    about(0, "/cb/callbacks.conf", "started"),
    about(10, "/cb/callbacks.conf", "held"),
    about(20, "/other/callbacks.conf"),
    about(30, "/cb/a.py", "restored"),
    about(40, "/cb/callbacks.conf", "stopped"),
]


@BOTH
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--since", "2026-11-27T03:10:00Z"], [1, 2, 3, 4]),
        (["--since", "2026-11-27 03:10:01"], [2, 3, 4]),
        (["--until", "2026-11-27 03:20"], [0, 1, 2]),
        (["--since", "2026-11-27 04:15+01:00", "--until", "2026-11-27T03:30:00Z"], [2, 3]),
        (["--only", "held"], [1]),
        (["--only", "held", "--only", "restored"], [1, 3]),
        (["--path", "/other/"], [2]),
        (["--path", "cb/callbacks.conf", "-n", "2"], [1, 4]),
        (["--only", "reloaded", "--path", "/cb/a.py"], []),
        (["-n", "0", "--only", "held"], []),
    ],
)
def test_records_are_chosen(
    written: Written, options: list[str], shown: list[int], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "reload.log").write_text("".join(map(written, RECORDS)))
    done = run("log", "--log", "reload.log", *options, TZ="UTC")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(written(RECORDS[number]) for number in shown)


DIGEST = "sha256:" + "0" * 64
CHANGED: dict[str, Any] = {
    "path": "/b/a.py",
    "trigger": "done-job-self",
    "line": 1,
    "digest": DIGEST,
}
AGAIN = [
    about(0, "/a/callbacks.conf", "held", held=[{"directory": "/a", "reason": "error"}]),
    # Edited again; another one was edited; both in one record, which changes what is served.
    about(10, "/a/callbacks.conf", held=[{"directory": "/a", "reason": "being-written"}]),
    about(20, "/b/callbacks.conf", held=[{"directory": "/a", "reason": "error"}]),
    about(
        30,
        "/a/callbacks.conf",
        held=[{"directory": "/a", "reason": "error"}],
        changes=[{"change": "added", **CHANGED}],
    ),
    about(40, "/a/callbacks.conf", "restored"),
    # Another listed directory, which is in the held one.
    about(50, "/a/b/callbacks.conf", held=[{"directory": "/a", "reason": "error"}]),
]


@BOTH
def test_who_edited_a_held_directory_again_is_found(
    written: Written, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "reload.log").write_text("".join(map(written, AGAIN)))
    done = run("log", "--log", "reload.log", "--only", "held", TZ="UTC")
    assert done.stdout == "".join(written(AGAIN[number]) for number in (0, 1, 3))
    done = run("log", "--log", "reload.log", "--only", "reloaded", TZ="UTC")
    assert done.stdout == "".join(written(AGAIN[number]) for number in (1, 2, 3, 5))


@pytest.mark.parametrize("style", ["number", "date", "mixed"])
def test_rotated_files_are_read_behind_the_newest(style: str, run: Run, tmp_path: Path) -> None:
    """As logrotate names them, compressed or not, whichever format they have."""
    names = {
        "number": ["reload.log.10.gz", "reload.log.9.gz", "reload.log.2", "reload.log.1"],
        "date": ["reload.log-20261109.gz", "reload.log-20261110", "reload.log-20261111"],
        "mixed": ["reload.log.2.gz", "reload.log.1"],
    }[style]
    logged = []
    for number, name in enumerate([*names, "reload.log"]):
        written = as_json if style == "mixed" and number % 2 else as_text
        entries = "".join(written(made(number * 10 + n)) for n in range(3))
        if name.endswith(".gz"):
            with gzip.open(tmp_path / name, "wt") as file:
                file.write(entries)
        else:
            (tmp_path / name).write_text(entries)
        logged += [written(made(number * 10 + n)) for n in range(3)]
    (tmp_path / "reload.log.bak").write_text(as_text(made(99)))
    (tmp_path / "other.log.1").write_text(as_text(made(98)))
    assert run("log", "--log", "reload.log", "-n", "999").stdout == "".join(logged)
    assert run("log", "--log", "reload.log", "-n", "4").stdout == "".join(logged[-4:])
    since = run("log", "--log", "reload.log", "--since", "2026-11-27T03:01:00Z")
    assert since.stdout == "".join(logged[1:])


def test_a_file_that_is_there_twice_is_shown_once_and_a_damaged_one_is_reported(
    run: Run, tmp_path: Path
) -> None:
    one, two = as_text(made(1)), as_text(made(2))
    (tmp_path / "reload.log").write_text(two)
    (tmp_path / "reload.log.1").write_text(one)
    (tmp_path / "reload.log.1.gz").write_bytes(gzip.compress(one.encode()))
    (tmp_path / "reload.log.2.gz").write_bytes(gzip.compress(one.encode())[:-9])
    done = run("log", "--log", "reload.log")
    assert (done.returncode, done.stdout) == (0, one + two)
    assert is_one_line(done.stderr)
    assert "reload.log.2.gz: " in done.stderr


def test_since_reads_every_file_that_may_hold_a_record(run: Run, tmp_path: Path) -> None:
    """An older record, of a wrong clock or an older file, does not end the reading."""
    early = as_text({**made(0), "time": "2020-01-01T00:00:00.000Z"})
    (tmp_path / "r.log").write_text(early + as_text(made(30)))
    (tmp_path / "r.log.1").write_text(as_text(made(20)) + early)
    (tmp_path / "r.log-20261117").write_text(as_text(made(10)))
    (tmp_path / "r.log.2").write_text(as_text(made(9)))
    for name, minute in (("r.log-20261117", 10), ("r.log.1", 20), ("r.log.2", -1)):
        written = (START + timedelta(minutes=minute)).timestamp()
        os.utime(tmp_path / name, (written, written))
    done = run("log", "--log", "r.log", "--since", "2026-11-27T03:00:00Z")
    assert done.stdout == "".join(as_text(made(minute)) for minute in (10, 20, 30))


def test_rotated_files_of_every_name_and_form_are_read_or_reported(
    run: Run, tmp_path: Path
) -> None:
    packed: dict[str, Callable[[bytes], bytes]] = {
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".gz": gzip.compress,
    }
    names = ["r-20261125.log.gz", "r.log-2026-11-26", "r.log.2.xz", "r.log.1.bz2", "r.1.log"]
    for minute, name in enumerate([*names, "r.log"]):
        data = as_text(made(minute)).encode()
        (tmp_path / name).write_bytes(packed.get(Path(name).suffix, bytes)(data))
        os.utime(tmp_path / name, (minute, minute))
    (tmp_path / "r.log.7.zst").write_bytes(b"x")
    os.mkfifo(tmp_path / "r.log.13")
    done = run("log", "--log", "r.log")
    assert done.stdout == "".join(as_text(made(minute)) for minute in range(6))
    assert len(done.stderr.splitlines()) == 2
    assert "r.log.7.zst: not read" in done.stderr
    assert "r.log.13: not a regular file" in done.stderr
    done = run("log", "--log", "r.log.13")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not a regular file" in done.stderr


def test_a_damaged_line_of_deep_json_is_no_record(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.log").write_text('{"a":' * 5000 + "\n" + as_json(RECORDS[1]))
    for options in (["--since", "2026-11-27T03:00:00Z"], ["--path", "/cb"]):
        done = run("log", "--log", "r.log", *options)
        assert (done.returncode, done.stdout, done.stderr) == (0, as_json(RECORDS[1]), "")


def test_a_continuation_line_belongs_to_its_record(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "reload.log"
    log.write_text("    the rest of what was cut\n" + as_text(RECORDS[1]) + as_json(RECORDS[2]))
    done = run("log", "--log", "reload.log", "--path", "/cb/z.py")
    assert done.stdout == as_text(RECORDS[1]) + as_json(RECORDS[2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "03:00"),
        (["--since", "25:00"], "03:00"),
        (["--only", "helt"], "held"),
        (["-f", "--until", "03:00"], "--until"),
        (["--since", "2026-11-27", "--until", "2026-11-26"], "before"),
    ],
)
def test_a_bad_choice_is_bad_usage(options: list[str], said: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "reload.log").write_text("")
    done = run("log", "--log", "reload.log", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


NOW = datetime(2026, 11, 27, 9, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2h", "2026-11-27T07:30:15+00:00"),
        ("30m", "2026-11-27T09:00:15+00:00"),
        ("90s", "2026-11-27T09:28:45+00:00"),
        ("1d", "2026-11-26T09:30:15+00:00"),
        ("03:00", "2026-11-27T03:00:00+00:00"),
        ("3:00", "2026-11-27T03:00:00+00:00"),
        ("09:30:15", "2026-11-27T09:30:15+00:00"),
        ("22:00", "2026-11-26T22:00:00+00:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20 03:00", "2026-11-20T03:00:00+00:00"),
        ("2026-11-20T03:00:00+01:00", "2026-11-20T03:00:00+01:00"),
        ("2026-11-20T03:00:00.999Z", "2026-11-20T03:00:00+00:00"),
    ],
)
def test_times(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert log_times.parse(given, NOW).isoformat() == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=25))
def test_any_time_is_read_or_refused(given: str) -> None:
    with contextlib.suppress(ValueError, OverflowError):
        assert log_times.parse(given, NOW).microsecond == 0


@given(st.lists(st.sampled_from([b"[a\n", b"{}\n", b"  b\n", b"\tc\n", b"\n", b"d"]), max_size=9))
def test_entries_are_the_log(lines: list[bytes]) -> None:
    data = b"".join(lines)
    entries = b"".join(entry.data for entry in split(data))
    assert data.endswith(entries)
    assert not data.removesuffix(entries).strip(b" \t\nbc")


# As JSON -----------------------------------------------------------------------------------------


def test_records_of_a_log_in_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reload.log").write_text("".join(map(as_json, RECORDS)))
    done = run("log", "--log", "reload.log", "--json", "--only", "held")
    assert (done.returncode, done.stdout, done.stderr) == (0, as_json(RECORDS[1]), "")


def test_what_is_no_record_in_json_is_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    """Text from before the format was changed, garbage, an empty and a half-written line."""
    (tmp_path / "r.log.1").write_text(as_text(RECORDS[0]))
    one, two = as_json(RECORDS[1]), as_json(RECORDS[2])
    (tmp_path / "r.log").write_text(f"\0\0\n{one}\n{as_text(RECORDS[1])}{two}{one[:40]}")
    done = run("log", "--log", "r.log", "--json")
    assert (done.returncode, done.stdout) == (0, one + two)
    assert done.stderr == "4 entries left out, which are not records in JSON\n"
    done = run("log", "--log", "r.log", "--json", "-n", "1")
    assert (done.returncode, done.stdout) == (0, two)
    assert "1 entry left out" in done.stderr
    done = run("log", "--log", "r.log", "--json", "--only", "stopped")
    assert (done.returncode, done.stdout) == (0, "")


def test_records_of_a_log_in_text_come_from_the_agent(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    log = tmp_path / "reload.log"
    log.write_text("".join(map(as_text, RECORDS)))
    setting = {"log": {"value": str(log), "source": "--log"}}
    agent.well("status", health(settings=setting))
    agent.well("history", {"records": RECORDS[2:]})
    pipe = {"CALLBACK_AGENT_PIPE": agent.path}
    done = run("log", "--json", "--path", "cb/", **pipe)
    assert done.stdout == "".join(map(as_json, RECORDS[2:]))
    assert "3 records" in done.stderr
    # Without an agent, or of another's log, there are none.
    other = tmp_path / "other.log"
    shutil.copy(log, other)
    for options, environment, status in (
        (["--log", str(log)], {"CALLBACK_AGENT_PIPE": str(tmp_path / "none")}, 3),
        (["--log", str(other)], pipe, 1),
    ):
        done = run("log", "--json", *options, **environment)
        assert (done.returncode, done.stdout) == (status, "")
        assert is_one_line(done.stderr)
        assert "in text" in done.stderr
    # A log that goes to standard output is nowhere else.
    agent.well("status", health(settings={"log": {"value": "-", "source": "--log"}}))
    done = run("log", "--json", "-n", "1", **pipe)
    assert (done.returncode, done.stdout) == (0, as_json(RECORDS[4]))


# A real agent ------------------------------------------------------------------------------------


def test_the_log_of_an_agent_in_colour_and_as_records(
    environment: dict[str, str], tmp_path: Path
) -> None:
    directory = write(tmp_path / "cb", "a.qcb = done-job-self\n", a_qcb="block-self\n")
    command = [sys.executable, "-m", "agent", "log", "--log", str(tmp_path / "reload.log")]
    pipe = ["--pipe", str(tmp_path / "pipe")]
    with running(tmp_path, directory) as agent:
        agent.stop()
        agent.log.unlink()
        agent.flags = []  # In text.
        agent.start()
        controller, terminal = pty.openpty()
        shown = b""
        following = subprocess.Popen(
            [*command, "-f"], env={**environment, "TERM": "xterm"}, stdout=terminal
        )
        records = subprocess.Popen(
            [*command, "-f", "--json", *pipe],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        os.close(terminal)
        try:
            assert records.stdout is not None
            assert json.loads(records.stdout.readline())["event"] == "started"
            write(directory, "a.qcb = done-jbo-self\n")
            agent.reload()
            held = agent.history()[-1]
            assert held["event"] == "held"
            assert json.loads(records.stdout.readline()) == held
            end = time.monotonic() + SOON
            while b"held" not in shown.rpartition(b"ERROR")[2] and time.monotonic() < end:
                if select.select([controller], [], [], 0.1)[0]:
                    shown += os.read(controller, 1 << 16)
        finally:
            for process in (following, records):
                process.kill()
                process.communicate()
            os.close(controller)
    assert b"\x1b[31m\x1b[1mERROR" in shown
    assert str(directory).encode() + b"/callbacks.conf:1:" in shown
