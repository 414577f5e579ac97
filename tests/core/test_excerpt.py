"""Excerpts: the carets are under the place, whatever the line holds and however long it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agent.core.excerpt import GAP, MIN_WIDTH, excerpt


@pytest.mark.parametrize(
    ("line", "column", "length", "text", "carets"),
    [
        ("a.py = jbo", 8, 3, "a.py = jbo", "       ^^^"),
        ("a.py = jbo", 1, 99, "a.py = jbo", "^^^^^^^^^^"),
        # Behind the end, where something is missing.
        ("a.py =", 7, 1, "a.py =", "      ^"),
        ("a.py =", 70, 5, "a.py =", "      ^"),
        ("", 1, 1, "", "^"),
        # A tab takes the columns to the next stop.
        ("\ta\tb", 2, 1, "    a   b", "    ^"),
        ("\ta\tb", 4, 1, "    a   b", "        ^"),
        ("\ta\tb", 1, 1, "    a   b", "^^^^"),
        # Wide characters take two columns, combining ones none.
        ("日本x", 3, 1, "日本x", "    ^"),
        ("日本x", 2, 1, "日本x", "  ^^"),
        ("e\u0301x", 3, 1, "e\u0301x", " ^"),
        ("e\u0301x", 2, 1, "e\u0301x", " ^"),
        # What could control the terminal is written as an escape.
        ("a\x1b[31mb", 2, 1, "a\\x1b[31mb", " ^^^^"),
        ("\u202eab", 3, 1, "\\u202eab", "       ^"),
        ("\udcffab", 1, 1, "\\xffab", "^^^^"),
    ],
)
def test_the_carets_are_under_the_place(
    line: str, column: int, length: int, text: str, carets: str
) -> None:
    assert excerpt(line, column, length, 80) == (text, carets)


@pytest.mark.parametrize("column", [1, 10, 40, 5000, 9980, 10_000])
def test_a_long_line_is_cut_around_the_place(column: int) -> None:
    line = "".join(chr(ord("a") + n % 26) for n in range(10_000))
    found = excerpt(line, column, 3, 60)
    assert len(found.text) <= 60
    assert found.text.startswith(GAP) == (column > 30)
    assert found.text.endswith(GAP) == (column < 9970)
    at = found.carets.index("^")
    assert found.text[at : at + 3].startswith(line[column - 1 : column + 2])
    # Some of what is before it is shown too.
    assert at >= min(column - 1, 10)


def test_a_place_that_is_longer_than_the_terminal_is_shown_from_its_beginning() -> None:
    found = excerpt("x" * 5 + "y" * 500, 6, 500, 40)
    assert (len(found.text), len(found.carets)) == (40, 37)
    assert found.text.index("y") == found.carets.index("^")


@given(
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 50),
)
def test_an_excerpt_fits_and_can_be_printed(
    line: str, column: int, length: int, width: int
) -> None:
    text, carets = excerpt(line, column, length, width)
    assert text.isprintable()
    assert set(carets) <= {" ", "^"}
    assert carets.strip(" ") == carets.lstrip(" ")
    assert "^" in carets
    assert len(carets) <= max(width, MIN_WIDTH)


@given(st.text("ab\t\x1b日e\u0301", max_size=60), st.integers(1, 65), st.integers(20, 40))
def test_the_columns_are_those_of_a_terminal(line: str, column: int, width: int) -> None:
    text, carets = excerpt(line, column, 1, width)
    assert cell_len(text) <= width
    if column <= len(line) and line[column - 1] in "ab":
        at = carets.index("^")
        taken = 0
        for character in text:
            if taken == at and cell_len(character):
                assert character == line[column - 1]
                break
            taken += cell_len(character)
