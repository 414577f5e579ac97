"""A record as text: the first line says what happened to what, and nothing is said twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import line_diff
from agent.reload.record_text import level, text, text_of_answer
from agent.rpc import messages
from agent.rpc.messages import Record
from support.records import record

CONF = "/farm/callback/callbacks.conf"
DIGEST = "sha256:" + "0" * 64
FINDING = {
    "severity": "warning",
    "code": "never-fires",
    "path": CONF,
    "line": 3,
    "column": 8,
    "message": "this never fires",
}
ERROR = {**FINDING, "severity": "error", "code": "unknown-type", "line": 12, "column": 18}
ERROR["message"] = "the type jbo is unknown"
CAUSE = {"path": CONF, "change": "modified", "owner": "mia", "size": 99}
CAUSE["mtime"] = "2026-11-27T03:12:08.001Z"
CHANGE = {"path": "/farm/callback/a.py", "trigger": "done-job-self", "line": 4, "digest": DIGEST}
HELD = {"directory": "/farm/callback", "reason": "error"}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def lines(**fields: Any) -> list[str]:
    return text(record(**fields), "farm[7]").splitlines()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "INFO"),
        ({"diagnostics": [{**FINDING, "severity": "note"}]}, "INFO"),
        ({"diagnostics": [FINDING]}, "WARNING"),
        ({"diagnostics": [FINDING, ERROR]}, "ERROR"),
        ({"held": [{**HELD, "reason": "fault"}]}, "ERROR"),
    ],
)
def test_the_level_is_that_of_the_worst(fields: dict[str, Any], expected: str) -> None:
    assert level(record(**fields)) == expected
    assert f" farm[7]: {expected}: reloaded: " in lines(**fields)[0]


def test_a_refused_edit_in_one_line() -> None:
    first, *others = lines(
        event="held",
        causes=[CAUSE],
        held=[HELD],
        newly_held=[HELD["directory"]],
        diagnostics=[FINDING, {**ERROR, "new": True, "hint": "write: a.py = x-job-self"}],
        conf_diff=[{"path": CONF, "diff": line_diff.unified(b"a\nb\nc\n", b"a\nB\nc\n")}],
    )
    assert first == (
        "[Nov 27, 2026 03:12:09] farm[7]: ERROR: held: /farm/callback/callbacks.conf:12:18:"
        " the type jbo is unknown [unknown-type] (mia, 03:12:08);"
        " generation 7, 41 callbacks served as before (3 ms)"
    )
    assert others == [
        "    help: write: a.py = x-job-self",
        "    - 2: b",
        "    + 2: B",
        "    1 finding as before",
    ]


def test_one_line_that_is_added_among_standing_warnings() -> None:
    """It makes one line for the change and one for the count."""
    before = b"a = x\n"
    _, *others = shown = lines(
        causes=[CAUSE],
        changes=[{"change": "added", **CHANGE, "line": 2}],
        diagnostics=[FINDING] * 40,
        conf_diff=[{"path": CONF, "diff": line_diff.unified(before, before + b"a.py = d\n")}],
    )
    assert f"WARNING: reloaded: {CONF} modified (mia, 03:12:08): 1 callback added; " in shown[0]
    assert others == [
        "    added: /farm/callback/a.py: done-job-self (line 2)",
        "    40 findings as before",
    ]


def test_callbacks_of_which_only_the_line_moved_are_one_line() -> None:
    moved = {"change": "modified", **CHANGE, "what": ["line"]}
    both = {**moved, "what": ["digest", "line"]}
    first, *others = lines(causes=[CAUSE], changes=[moved, both, moved])
    assert ": 1 callback modified, 2 moved; generation 7, 41 callbacks served (" in first
    assert others == [
        "    modified: /farm/callback/a.py: done-job-self (line 4; other code, another line)",
        "    moved: 2 callbacks to other lines",
    ]
    assert lines(changes=[moved])[1:] == ["    moved: 1 callback to other lines"]


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"event": "started", "causes": [{**CAUSE, "path": "/cb"}]}, ": started: /cb; generation"),
        ({"event": "stopped"}, ": stopped: generation 7, 41 callbacks served (3"),
        (
            {"event": "stopped", "held": [HELD]},
            "ERROR: stopped: still held: /farm/callback; generation",
        ),
        (
            {
                "event": "held",
                "held": [{**HELD, "reason": "being-written"}],
                "newly_held": ["/farm/callback"],
            },
            "ERROR: held: /farm/callback (being-written); generation",
        ),
        (
            {"held": [HELD], "causes": [CAUSE]},
            f"ERROR: still held: {CONF} modified (mia, 03:12:08); generation 7, ",
        ),
        (
            {"held": [HELD], "causes": [CAUSE], "changes": [{"change": "added", **CHANGE}]},
            "ERROR: reloaded: ",
        ),
        (
            {"held": [HELD], "causes": [{**CAUSE, "path": "/other/a.py"}]},
            "reloaded: /other/a.py modified (mia, 03:12:08); still held: /farm/callback; gener",
        ),
        (
            {"held": [HELD], "causes": [{**CAUSE, "path": "/farm/callback/b/callbacks.conf"}]},
            "reloaded: /farm/callback/b/callbacks.conf modified (mia, 03:12:08); still held: /farm",
        ),
        (
            {"event": "restored", "restored": ["/farm/callback"], "causes": [CAUSE]},
            f"INFO: restored: {CONF} modified (mia, 03:12:08); generation",
        ),
        (
            {"event": "restored", "restored": ["/farm/callback"]},
            "INFO: restored: /farm/callback; generation",
        ),
        (
            {"diagnostics": [{**ERROR, "code": "removed", "new": True}], "callbacks": 1},
            f"reloaded: {CONF}:12:18: the type jbo is unknown [removed]; generation 7, 1 callback ",
        ),
        ({"diagnostics": [ERROR]}, f"ERROR: reloaded: no finding is new; still wrong: {CONF};"),
        (
            {"causes": [{**CAUSE, "mtime": "2026-11-20T03:12:08.001Z"}]},
            "modified (mia, Nov 20, 2026 03:12:08)",
        ),
        ({"causes": [{"path": "/cb/a.py", "change": "removed"}] * 3}, "/cb/a.py removed and 2 "),
    ],
)
def test_the_first_line_names_what_it_is_about(fields: dict[str, Any], phrase: str) -> None:
    assert phrase in lines(**fields)[0]


def test_two_directories_that_are_held_at_once_are_both_named() -> None:
    held = [HELD, {"directory": "/b", "reason": "fault"}]
    new = [h["directory"] for h in held]
    found = [{**ERROR, "new": True}]
    first, *others = lines(event="held", held=held, newly_held=new, diagnostics=found)
    assert "[unknown-type] and 1 other directory; generation" in first
    assert others == ["    held: /b (fault)"]


def test_a_directory_in_another_one_that_is_held_too_is_named() -> None:
    held = [HELD, {"directory": "/farm/callback/b", "reason": "error"}]
    new = [h["directory"] for h in held]
    found = [{**ERROR, "path": "/farm/callback/b/callbacks.conf", "new": True}]
    first, *others = lines(event="held", held=held, newly_held=new, diagnostics=found)
    assert "[unknown-type] and 1 other directory; generation" in first
    assert others == ["    held: /farm/callback (error)"]


def test_a_call_that_changes_nothing_does_not_say_reloaded() -> None:
    answer = msgspec.to_builtins(record(held=[HELD], diagnostics=[ERROR, FINDING]))
    first, *others = text_of_answer(answer).splitlines()
    assert "ERROR: nothing changed: " in first
    assert "reloaded" not in first
    # Whoever asks wants to know what is wrong.
    assert "the type jbo is unknown" in first
    assert others == ["    1 finding as before"]
    assert "INFO: nothing changed: generation 7, 41 callbacks served as before" in text_of_answer(
        msgspec.to_builtins(record())
    )


def test_the_record_of_an_older_agent_is_shown() -> None:
    new = {"instance", "sequence", "newly_held", "restored", "conf_diff"}
    answer = {k: v for k, v in msgspec.to_builtins(record()).items() if k not in new}
    assert "generation 7" in text_of_answer(answer | {"unknown": 1})


def test_a_diff_that_is_cut_says_so() -> None:
    diff = line_diff.unified(b"", b"".join(b"%d = x\n" % n for n in range(3000)))
    *_, last = lines(causes=[CAUSE], conf_diff=[{"path": CONF, "diff": diff}])
    assert last == "    (cut here: more lines differ)"


# Any record --------------------------------------------------------------------------------------

NAMES = st.text(max_size=20)
FINDINGS = st.builds(
    messages.Diagnostic,
    severity=st.sampled_from(["error", "warning", "note"]),
    code=st.just("x"),
    path=NAMES,
    line=st.none() | st.integers(1, 9),
    column=st.none() | st.integers(1, 9),
    message=NAMES,
    hint=st.just(msgspec.UNSET) | NAMES,
    new=st.sampled_from([msgspec.UNSET, True]),
)
RECORDS = st.builds(
    Record,
    time=st.just("2026-11-27T03:12:09.123Z"),
    instance=st.just("x"),
    sequence=st.just(1),
    event=st.sampled_from(["started", "reloaded", "held", "restored", "stopped"]),
    generation=st.just(3),
    digest=st.just("x"),
    callbacks=st.integers(0, 2),
    duration_ms=st.just(1.0),
    causes=st.lists(
        st.builds(
            messages.Cause,
            path=NAMES,
            change=st.sampled_from(["added", "removed", "modified"]),
            owner=NAMES,
            mtime=st.sampled_from(["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]),
        ),
        max_size=3,
    ),
    changes=st.lists(
        st.builds(
            messages.Change,
            change=st.sampled_from(["added", "removed", "modified"]),
            path=NAMES,
            trigger=NAMES,
            line=st.integers(1, 9),
            digest=st.just(DIGEST),
            what=st.sampled_from([msgspec.UNSET, ["line"], ["digest"]]),
        ),
        max_size=3,
    ),
    held=st.lists(
        st.builds(
            messages.HeldDirectory,
            directory=NAMES,
            reason=st.just("error"),
        ),
        max_size=2,
    ),
    newly_held=st.lists(NAMES, max_size=2),
    restored=st.lists(NAMES, max_size=2),
    diagnostics=st.lists(FINDINGS, max_size=4),
    conf_diff=st.lists(
        st.builds(
            messages.ConfDiff,
            path=NAMES,
            diff=st.builds(line_diff.unified, st.binary(max_size=30), st.binary(max_size=30)),
        ),
        max_size=2,
    ),
)


@given(RECORDS)
def test_any_record_is_one_first_line_and_indented_lines(one: Record) -> None:
    """No name, message or text of a file can write a line of its own."""
    directories = [held.directory for held in one.held]
    one = msgspec.structs.replace(one, newly_held=directories[: len(one.newly_held)])
    shown = text(one, "farm[7]")
    assert shown.endswith("\n")
    first, *others = shown[:-1].split("\n")
    head = r"\[Nov 27, 2026 03:12:09\] farm\[7\]: (INFO|WARNING|ERROR): "
    again = one.event == "reloaded" and not one.changes and bool(one.held)
    assert re.match(f"{head}({one.event}{'|still held' if again else ''}): ", first)
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert first.isprintable()
    # Each finding is either new, in full, or counted.
    old = sum(not d.new for d in one.diagnostics)
    counted = [
        int(m[1]) for line in others if (m := re.fullmatch(r"    (\d+) findings? as .*", line))
    ]
    assert counted[-1:] == ([old] if old else [])
