"""The diff of two texts of a callbacks.conf: right, small, and made in a limited time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.line_diff import CUT, MAX_BYTES, Shift, unified

LINES = st.lists(st.sampled_from(["a = x", "b = y", "", "# c", "d = z", "\\ e"]), max_size=30)
TEXTS = st.builds(
    lambda lines, ends: "\n".join([*lines, *([""] if ends else [])]), LINES, st.booleans()
)


def patched(before: str, diff: str) -> str:
    """What a diff makes of a text: by the meaning of its lines, without `patch`."""
    old, at = before.split("\n"), 0
    if old[-1] == "":
        old.pop()
    new: list[str] = []
    ends = True
    lines = diff.splitlines()
    for number, line in enumerate(lines[2:], 2):
        if line.startswith("@@"):
            start, _, length = line.split()[1][1:].partition(",")
            first = int(start) - (length != "0")
            new += old[at:first]
            at = first
        elif line.startswith("\\"):
            ends = ends and lines[number - 1].startswith("-")
        elif line.startswith("+"):
            new.append(line[1:])
        else:
            assert old[at] == line[1:]
            at += 1
            new += [line[1:]] if line.startswith(" ") else []
    if at < len(old):
        ends = before.endswith("\n")
        new += old[at:]
    return "\n".join(new) + ("\n" if new and ends else "")


@given(TEXTS, TEXTS)
def test_it_makes_the_one_text_of_the_other(old: str, new: str) -> None:
    diff = unified(old.encode(), new.encode())
    assert patched(old, diff) == new
    assert bool(diff) == (old != new)


@given(LINES, LINES)
def test_lines_are_found_where_they_moved_to(before: list[str], now: list[str]) -> None:
    old, new = ("".join(f"{line}\n" for line in lines).encode() for lines in (before, now))
    shift = Shift.between(old, new)
    for number, line in enumerate(before, 1):
        moved = shift.moved(number)
        assert moved is None or now[moved - 1] == line
    if old == new:
        assert all(shift.moved(number) == number for number in range(1, 40))


def test_the_lines_below_an_edit_move() -> None:
    shift = Shift.between(b"a\nb\nc\nd\n", b"a\nx\ny\nz\nc\nd\n")
    assert [shift.moved(line) for line in range(1, 5)] == [1, None, 5, 6]


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")
def test_patch_takes_it(tmp_path: Path) -> None:
    old = "".join(f"{n}.py = done-job-self\n" for n in range(100))
    new = old.replace("50.py", "x.py").replace("7.py = ", "7.py= ", 1) + "last = x\n"
    (tmp_path / "conf").write_text(old)
    diff = unified(old.encode(), new.encode())
    subprocess.run(["patch", "conf"], input=diff.encode(), cwd=tmp_path, check=True)
    assert (tmp_path / "conf").read_text() == new


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_it_takes_any_bytes(before: bytes, now: bytes) -> None:
    diff = unified(before, now)
    assert len(diff.encode()) <= MAX_BYTES
    if before != now:
        assert any(line[:1] in "+-" for line in diff.splitlines()[2:])


def test_names_and_limits_are_the_callers() -> None:
    assert unified(b"a\n", b"b", ("one", "two")).splitlines() == [
        *("--- one", "+++ two", "@@ -1 +1 @@", "-a", "+b", "\\ No newline at end of file"),
    ]
    lines = b"".join(b"%d\n" % n for n in range(2000))
    assert CUT in unified(b"", lines, max_bytes=1 << 20)
    whole = unified(b"", lines, max_bytes=1 << 20, max_lines=2000)
    assert whole.count("\n") == 2003


def test_bytes_that_are_not_utf_8_are_written_as_escapes() -> None:
    diff = unified(b"# caf\xe9\n", "# café\n".encode())
    assert diff.splitlines()[2:] == ["@@ -1 +1 @@", "-# caf\\xe9", "+# café"]


MANY = b"".join(b"%d.py = done-job-self\n" % n for n in range(50_000))


@pytest.mark.parametrize(
    ("before", "now", "is_cut"),
    [
        (b"", MANY, True),
        (MANY, b"", True),
        (MANY, MANY[len(MANY) // 2 :], True),
        (b"new\n" + MANY, MANY, False),
        (MANY + b"x\n", MANY, False),
        (b"x\n" * 8_000_000, b"y\n" * 8_000_000, True),
        (b"\n" * (16 << 20), b"\n" * ((16 << 20) - 1) + b"x\n", False),
        (b"".join(b"x\n%d\n" % n for n in range(90)), b"x\n" * 199, False),
        (b"".join(b"x\n%d\n" % n for n in range(9000)), b"x\ny\n" * 9000, True),
        (b"a" * (16 << 20), b"a" * ((16 << 20) - 1) + b"b", False),
    ],
    ids=str.split("all_new gone half first last other feeds alike alternating one_line"),
)
def test_it_is_small_and_soon_made(before: bytes, now: bytes, is_cut: bool) -> None:
    """What is quadratic in these texts takes minutes."""
    diff = unified(before, now)
    assert 0 < len(diff.encode()) <= MAX_BYTES
    assert diff.endswith(CUT + "\n") is is_cut


def test_bytes_are_not_compared_one_by_one() -> None:
    before = b"".join(b"a.py = done-job-%d\n" % n for n in range(4000))
    now = before.replace(b"-2000\n", b"-twothousand\n")
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        shift = Shift.between(before, now)
    finally:
        sys.setprofile(None)
    assert shift == Shift(2001, 2002, 0)
    assert steps < 1000
