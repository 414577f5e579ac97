"""The `key = value` text of qb.conf and callbacks.conf: values, lines, columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.conf import read_qb
from agent.core.diagnostic import Severity
from support.conf_lines import read_callbacks

CALLBACKS = [
    # One line of a callbacks.conf, the name, the value, and the column where the value begins.
    (b"a.py = done-job-self", "a.py", "done-job-self", 8),
    (b"a.py=done-job-self", "a.py", "done-job-self", 6),
    (b" \ta.py\t =\tdone-job-self \t", "a.py", "done-job-self", 11),
    (b"\xef\xbb\xbfa.py = x\r", "a.py", "x", 8),
    (b"a.py = x # y = z", "a.py", "x", 8),
    (b"a.py = x#y", "a.py", "x", 8),
    (b"a.py = a = b", "a.py", "a = b", 8),
    (b'a.py = "a # b = c" # d', "a.py", "a # b = c", 9),
    (rb'a.py = "a\\b\"c\d"', "a.py", r'a\b"c\d', 9),
    (b'a.py = a "b" c', "a.py", 'a "b" c', 8),
    (rb"a.py = a\*b", "a.py", r"a\*b", 8),
    (b'a.py = ""', "a.py", "", 9),
    (b"a.py =", "a.py", "", 7),
    ("é ü.py = ö".encode(), "é ü.py", "ö", 10),
    (b"a.py = x # \xff", "a.py", "x", 8),
    (b'a.py = "x" # \xff', "a.py", "x", 9),
]


@pytest.mark.parametrize(("line", "name", "value", "column"), CALLBACKS)
def test_a_line_gives_a_name_and_a_value(line: bytes, name: str, value: str, column: int) -> None:
    settings, findings = read_callbacks(b"# first\n" * (not line.startswith(b"\xef")) + line, "f")
    (setting,) = settings
    assert findings == []
    assert (setting.name, setting.value, setting.value_column) == (name, value, column)
    assert setting.line == (1 if line.startswith(b"\xef") else 2)


@pytest.mark.parametrize(
    "text", [b"", b"\n\n", b"# x", b"  # x = y\r\n", b"\xef\xbb\xbf# x", b"\xef\xbb\xbf", b"#\xff"]
)
def test_comments_and_nothing_give_nothing(text: bytes) -> None:
    assert read_callbacks(text, "f") == ([], [])


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        (b"a.py", "no-equals", 1),
        (b"  a.py # = x", "no-equals", 3),
        (b"= x", "no-name", 1),
        (b"   = x", "no-name", 4),
        (b'a.py = "x', "unclosed-quote", 8),
        (rb'a.py = "x\"', "unclosed-quote", 8),
        (b'a.py = "x" y # z', "after-quote", 12),
        (b'a.py = "x""y"', "after-quote", 11),
        (b"a.py = { x }", "brace-value", 8),
        (b'"a.py" = x', "quoted-name", 1),
        (b"a.py = x\xffy", "not-utf-8", 9),
        (b"\xff.py = x", "not-utf-8", 1),
        ("é".encode() + b" = x\xff", "not-utf-8", 6),
    ],
)
def test_a_line_that_cannot_be_read_is_an_error_at_its_column(
    line: bytes, code: str, column: int
) -> None:
    settings, (finding,) = read_callbacks(b"a.py = x\n" + line + b"\nb.py = y\n", "f")
    # The other lines are read.
    assert [s.name for s in settings] == ["a.py", "b.py"]
    assert (finding.severity, finding.code) == (Severity.ERROR, code)
    assert (finding.path, finding.line, finding.column) == ("f", 2, column)


def test_a_single_quote_is_a_warning_and_part_of_the_value() -> None:
    (setting,), (finding,) = read_callbacks(b"a.py = done-job-o'neill\n", "f")
    assert setting.value == "done-job-o'neill"
    assert (finding.severity, finding.code, finding.column) == (
        Severity.WARNING,
        "single-quote",
        18,
    )


def test_the_column_inside_a_value_counts_the_escapes_before_it() -> None:
    (setting,), _ = read_callbacks(rb'a.py = "a\\b\"c"', "f")
    text = r'a.py = "a\\b\"c"'
    for offset, character in enumerate(setting.value):
        assert text[setting.column_of(offset) - 1] == character


def test_only_line_feeds_end_a_line() -> None:
    text = "a.py = x\u2028y\x0bz\x85\rw\n"
    (setting,), findings = read_callbacks(text.encode(), "f")
    assert (setting.value, findings) == ("x\u2028y\x0bz\x85\rw", [])


def test_qb_conf_gives_only_what_is_wanted() -> None:
    text = b"""\
# qb_ours = 0
b = "1
{ = }
worker_path_map = {
    qb_ours = 2
    "} a" = "#"  # }
    { qb_ours = 3 } # {
}
qb_ours = 4 # 5
qb_other = 6
ours
 = qb_ours
"""
    found, findings = read_qb(text, "qb.conf", {"qb_ours"})
    assert [(s.name, s.value, s.line) for s in found.values()] == [("qb_ours", "4", 9)]
    assert findings == []


def test_in_qb_conf_the_last_of_a_setting_counts_with_a_warning() -> None:
    found, (finding,) = read_qb(b"qb_ours = 1\nb = 2\n qb_ours = 3\n", "qb.conf", {"qb_ours"})
    assert (found["qb_ours"].value, found["qb_ours"].line) == ("3", 3)
    assert (finding.severity, finding.code) == (Severity.WARNING, "duplicate-setting")
    assert (finding.line, finding.column) == (3, 2)


def test_a_brace_that_never_closes_hides_nothing() -> None:
    found, (finding,) = read_qb(b"m = {\nx\nqb_ours = 1\n", "qb.conf", {"qb_ours"})
    assert found["qb_ours"].value == "1"
    assert (finding.severity, finding.line) == (Severity.WARNING, 1)


BYTES = st.binary() | st.lists(
    st.sampled_from(
        [
            *(b"a", b"b.py", b"=", b'"', b"\\", b"{", b"}", b"#", b"\n", b"\r\n", b" ", b"'"),
            *(b"\xff", "é".encode(), b"\xef\xbb\xbf", b"a = ", b'a = "', b"a = {"),
        ]
    ),
    max_size=40,
).map(b"".join)


@given(BYTES)
def test_any_bytes_give_settings_and_findings_inside_the_text(data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    settings, findings = read_callbacks(data, "f")
    for finding in findings:
        assert finding.line is not None
        assert finding.column is not None
        assert 1 <= finding.line <= len(lines)
        assert 1 <= finding.column <= len(lines[finding.line - 1]) + 1
    # Each line gives a setting or an error, never both.
    wrong = [f.line for f in findings if f.severity is Severity.ERROR]
    numbers = [*wrong, *(s.line for s in settings)]
    assert len(numbers) == len(set(numbers))
    for setting in settings:
        assert setting.name == setting.name.strip() != ""
    found, findings = read_qb(data, "f", {"a"})
    assert set(found) <= {"a"}
    assert all(f.line is not None and 1 <= f.line <= len(lines) for f in findings)
