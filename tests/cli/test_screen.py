"""Texts and tables that fit a width, whatever is in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.cli import screen
from agent.cli.screen import Cell, Row, cells, cut, shorten, table, wrap
from agent.core.quoting import printable

#: Also what takes two columns, and none.
TEXT = st.text(st.sampled_from("abc/-*. \u00e9\u6f22\u5b57\u0301\u1100"), max_size=60).map(
    printable
)


def test_a_path_is_shortened_in_its_middle() -> None:
    path = "/farm/projects/callbacks/callbacks.conf:7"
    assert shorten(path, 24) == "/farm/p...llbacks.conf:7"
    assert shorten(path, None) == shorten(path, len(path)) == path
    assert cut(path, 10) == "/farm/p..."


@given(TEXT, st.integers(0, 70))
def test_a_text_takes_no_more_than_it_may(text: str, limit: int) -> None:
    for short in (shorten(text, limit), cut(text, limit)):
        assert cells(short) <= limit
        assert short == text or cells(text) > limit


@given(TEXT, st.integers(10, 70))
def test_wrapped_lines_fit_and_lose_nothing(text: str, limit: int) -> None:
    lines = wrap(text, limit, "why: ", "  ")
    assert all(cells(line) <= limit for line in lines)
    assert lines[0].startswith("why: ")
    joined = lines[0].removeprefix("why: ") + "".join(line[2:] for line in lines[1:])
    assert joined.replace(" ", "") == text.replace(" ", "")
    assert wrap(text, None, "why: ", "  ") == ["why: " + text]


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=6),
    st.integers(1, 90),
)
def test_a_row_is_a_line_that_fits(rows: list[tuple[str, str, str, str]], limit: int) -> None:
    made = [Row([Cell(text) for text in row[:3]], row[3]) for row in rows]
    headings = ("FILE", "TRIGGER", "LINE", "WHY")
    full = list(table(headings, made, None))
    assert len(full) == len(rows)
    for line, row in zip(full, rows, strict=True):
        assert all(text.rstrip() in line for text in row)
    lines = list(table(headings, made, limit, (1,)))
    narrow = max(limit, len(screen.INDENT) + screen.MIN_WIDTH)
    assert all(cells(line) <= narrow for line in lines)
    wide = list(table(headings, made, 10_000))
    assert [line.split() for line in wide[1:]] == [line.split() for line in full]
