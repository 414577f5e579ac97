"""Differences of texts: what is printed can be applied, whatever the texts are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import diff
from agent.core.diff import unified

LINES = st.lists(st.sampled_from(["a", "b", "", "- c", "+d", "\\ e"]), max_size=30)
TEXTS = st.builds(
    lambda lines, end: "\n".join([*lines, *([""] if end else [])]).encode(), LINES, st.booleans()
)


def applied(old: str, lines: list[str]) -> str:
    """The new text, from the old one and a diff."""
    before = old.split("\n")
    if before[-1] == "":
        before.pop()
    now: list[str] = []
    at = 0
    # Whether the last line has an end.
    ends = True
    for number, line in enumerate(lines[2:], 2):
        if match := re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", line):
            begin = int(match[1]) - (match[2] != "0")
            now += before[at:begin]
            at = begin
        elif line.startswith("\\"):
            ends = ends and lines[number - 1].startswith("-")
        elif line.startswith("+"):
            now.append(line[1:])
        else:
            assert before[at] == line[1:]
            at += 1
            if line.startswith(" "):
                now.append(line[1:])
    if at < len(before):
        ends = old.endswith("\n")
    now += before[at:]
    return "\n".join(now) + ("\n" if now and ends else "")


@pytest.mark.parametrize("most", [3, 2000])
@given(TEXTS, TEXTS)
def test_a_diff_leads_from_one_text_to_the_other(most: int, old: bytes, new: bytes) -> None:
    before = diff.MAX_COMPARED
    diff.MAX_COMPARED = most
    try:
        lines = unified(old, new, "old", "new")
    finally:
        diff.MAX_COMPARED = before
    assert lines is not None
    assert (lines == []) == (old == new)
    if lines:
        assert lines[:2] == ["--- old", "+++ new"]
        assert applied(old.decode(), lines) == new.decode()


def test_a_text_that_is_not_utf_8_has_no_diff() -> None:
    assert unified(b"\xff", b"a", "old", "new") is None
    assert unified(b"\xff", b"\xff", "old", "new") == []


def test_very_long_texts_take_no_time() -> None:
    old = b"".join(b"%d\n" % n for n in range(100_000))
    new = b"first\n" + old.replace(b"7", b"8") + b"last\n"
    lines = unified(old, new, "old", "new")
    assert lines is not None
    assert len(lines) > 200_000
    # One line more is one line, however long the text is.
    lines = unified(old, old.replace(b"\n77777\n", b"\n77777\nnew\n"), "old", "new")
    assert lines is not None
    assert lines[2:] == [
        "@@ -77776,6 +77776,7 @@",
        *(" 77775", " 77776", " 77777", "+new", " 77778", " 77779", " 77780"),
    ]
