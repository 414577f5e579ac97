"""The plan of a callbacks.conf: lines that need no examination are found soon, and rightly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import habits, lines, planning, trigger
from agent.core.diagnostic import Problem

_FIELDS = st.sampled_from(
    [
        "failed",
        "done",
        "faild",
        "job",
        "work",
        "jbo",
        "self",
        "slef",
        "7",
        "lab el",
        "lab 7",
        "done_job",
        'a"b',
        "a # b",
        "or",
        "*",
        "a.*",
        "",
        "(",
    ]
)
_EVENTS = st.lists(_FIELDS, min_size=2, max_size=5).map("-".join)
_TRIGGERS = st.lists(
    st.one_of(_EVENTS, st.sampled_from([" && ", " || ", "&", ")", "(", " and ", " ", ";", "//"])),
    max_size=7,
).map("".join)
_LINES = st.builds(
    "{} = {}".format, st.sampled_from(["a.py", "b.pl", "c.sh", "a.py b.py", "!a.py"]), _TRIGGERS
)


@given(
    st.lists(st.one_of(_LINES, st.sampled_from(["", "# x = y", "&& done-job-self"])), max_size=9)
)
def test_a_line_that_is_only_glanced_at_has_nothing_to_find(text: list[str]) -> None:
    data = "\n".join(text).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(habits, "_PLAIN_LABEL", re.compile("(?!)"))
        patch.setattr(trigger, "_flat", lambda _: None)
        patch.setattr(planning._Planner, "_glance", lambda *_: (None, None))
        examined = planning.plan(data, "/d/callbacks.conf")
    assert planning.plan(data, "/d/callbacks.conf") == examined
    assert planning.plan(data, "/d/callbacks.conf", examined) == examined


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"\0", "holds nothing but NUL bytes", "restore it from a copy"),
        (bytes(4096), "holds nothing but NUL bytes", "restore it from a copy"),
        ("a.py = x\n".encode("utf-16-le"), "is UTF-16", "save it as UTF-8"),
        ("\n".encode("utf-16-le"), "is UTF-16", "save it as UTF-8"),
    ],
)
def test_a_file_of_nul_bytes_is_not_taken_for_utf_16(data: bytes, message: str, hint: str) -> None:
    (found,) = planning.plan(data, "/d/callbacks.conf").findings
    assert (found.code, found.line, found.column) == ("not-utf-8", 1, 1)
    assert message in found.message
    assert str(found.hint).startswith(hint)


def test_nul_bytes_behind_the_lines_are_one_finding() -> None:
    """As a power failure leaves them in a file that was just written."""
    (found,) = planning.plan(b"a.py = done-job-self\n" + bytes(5000), "/d/callbacks.conf").findings
    assert (found.code, found.line, found.column) == ("no-equals", 2, 1)
    assert "nothing but NUL bytes" in found.message
    assert "write: " not in str(found.hint)


USUAL = [
    *("done-job-self", "failed-work-lab-7-*", "failed-job-render 7", "complete-job-1234"),
    *("done-job-a && done-job-b", "done-job-a || failed-job-b || killed-job-c"),
    "(done-work-a-1 && done-work-b-1) || failed-job-c",
]


def test_a_usual_line_is_not_examined_and_a_known_trigger_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examined, parsed = list[str](), list[str]()
    examine, parse = lines.examine, trigger.parse

    def counted_examine(line: str, number: int) -> lines.Examined:
        examined.append(line)
        return examine(line, number)

    def counted_parse(text: str) -> tuple[trigger.Trigger | None, list[Problem]]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(lines, "examine", counted_examine)
    monkeypatch.setattr(trigger, "parse", counted_parse)
    data = "".join(f"f{n}.py = {t}\n" for t in USUAL for n in range(3)).encode()
    plan = planning.plan(data, "/d/callbacks.conf")
    assert plan.findings == ()
    # A name is examined once.
    assert examined == [f"f{n}.py = {USUAL[0]}" for n in range(3)]
    parsed.clear()
    assert planning.plan(data, "/d/callbacks.conf", plan) == plan
    assert parsed == []
