"""Diagnostics: how many are reported, how long quoted text may be, and which characters never reach
a terminal."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.diagnostic import (
    MAX_FINDINGS,
    MORE_FINDINGS,
    Diagnostic,
    Problem,
    ProblemError,
    Severity,
    capped,
)
from agent.core.quoting import MAX_QUOTED, escape_json, printable, shorten, shown

#: The general categories of characters that must not reach a terminal unescaped.
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def finding(severity: Severity, line: int, path: str = "/f") -> Diagnostic:
    return Diagnostic(severity, "some-code", path, line, 1, "found something")


def found() -> st.SearchStrategy[list[Diagnostic]]:
    kinds = st.tuples(st.sampled_from(Severity), st.sampled_from(["/f", "/g"]))
    return st.lists(kinds, max_size=30).map(
        lambda drawn: [finding(s, line, path) for line, (s, path) in enumerate(drawn, 1)]
    )


def total(findings: list[Diagnostic]) -> int:
    return sum(f.count for f in findings)


@given(found(), st.integers(1, 8))
def test_no_more_than_the_limit_is_reported_and_the_rest_is_counted(
    findings: list[Diagnostic], limit: int
) -> None:
    result = capped(findings, limit)
    assert total(result) == len(findings)
    for path in {f.path for f in findings}:
        given_here = [f for f in findings if f.path == path]
        here = [f for f in result if f.path == path and f.code != MORE_FINDINGS]
        more = [f for f in result if f.path == path and f.code == MORE_FINDINGS]
        assert len(here) == min(limit, len(given_here))
        ranked = sorted(given_here, key=lambda f: list(Severity).index(f.severity))
        assert sorted(here, key=ranked.index) == ranked[: len(here)]
        if not more:
            assert here == given_here
        else:
            (one,) = more
            assert one.severity == ranked[limit].severity
            assert one.count == len(given_here) - limit


@given(found(), found(), st.integers(1, 8))
def test_a_list_can_be_capped_while_it_grows(
    first: list[Diagnostic], second: list[Diagnostic], limit: int
) -> None:
    at_once = capped([*first, *second], limit)
    in_steps = capped([*capped(first, limit), *second], limit)
    assert sorted(map(str, in_steps)) == sorted(map(str, at_once))
    assert capped(at_once, limit) == at_once


def test_findings_of_many_files_can_be_capped_as_those_of_their_directory() -> None:
    many = [finding(Severity.WARNING, 1, f"/d/{i}.qcb") for i in range(1000)]
    many.append(finding(Severity.ERROR, 1, "/d/z.qcb"))
    result = capped(many, under="/d")
    assert len(result) == MAX_FINDINGS + 1
    assert many[-1] in result
    assert result[-1].path == "/d"
    assert result[-1].count == 901
    assert "901 more" in result[-1].message


def test_the_length_of_a_problem_reaches_its_json_where_it_is_not_one() -> None:
    raised = ProblemError("no-name", "no name", line=3, column=2, length=7).problem
    assert raised.at("/f").as_json()["length"] == 7
    assert raised.at("/f", 4, 5).length == 7
    assert "length" not in Problem("no-name", "no name").at("/f").as_json()


@given(st.text(max_size=50), st.integers(10, 40))
def test_a_long_text_keeps_its_head_and_its_tail(text: str, limit: int) -> None:
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert len(short) == limit
        head, _, tail = short.partition("...")
        assert text.startswith(head)
        assert short.endswith(text[-2:])
        assert tail or head


def test_a_quoted_text_is_short_and_on_one_line_whatever_it_is() -> None:
    for text in ("x" * 10_000, "\U000e0001" * 10_000, "\udcff" * 1000, "\n" * 500):
        assert len(shown(text)) <= MAX_QUOTED
        assert shown(text).isprintable()


@pytest.mark.parametrize(
    "character",
    [
        *("\x1b", "\x7f", "\x85", "\x9b", "\xad", "\u200b", "\u202e", "\u2028", "\u2066"),
        *("\ufeff", "\ue000", "\u0378", "\udc80", "\ud800", "\U000e0041"),
    ],
)
def test_what_could_drive_a_terminal_is_written_as_an_escape(character: str) -> None:
    text = printable(f"a{character}b")
    assert text.isascii()
    assert text.startswith("a\\")
    as_json = str(Diagnostic(Severity.ERROR, "c", "/f", 1, 1, f"a{character}b"))
    assert as_json.isprintable()


def test_escaped_json_holds_nothing_that_could_drive_a_terminal() -> None:
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))
    encoded = json.dumps(every, ensure_ascii=False).encode()
    escaped = escape_json(encoded)
    assert json.loads(escaped) == every
    assert {unicodedata.category(c) for c in escaped.decode()} & HARMFUL == set()
    assert escape_json(escaped) == escaped


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_escaped_json_means_the_same(text: str) -> None:
    encoded = json.dumps({text: [text]}, ensure_ascii=False).encode()
    assert json.loads(escape_json(encoded)) == {text: [text]}
