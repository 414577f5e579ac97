"""The table in README.md names a test that exists for each row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = range(1, 37)

#: By row, what its last column says.
TABLE = {
    int(found[1]): found[2]
    for found in re.finditer(
        r"^\| (\d+) \|.*\| ([^|]*) \|$", (HERE / "README.md").read_text(), re.M
    )
}


def names_in(file: Path) -> set[str]:
    """The names of all functions of a file."""
    tree = ast.parse(file.read_text())
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_table_has_all_rows() -> None:
    assert list(TABLE) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_exist(row: int) -> None:
    named = re.findall(r"`([\w./]+\.py)(?:::(test_\w+))?`", TABLE[row])
    assert named, f"row {row} names no test: {TABLE[row]}"
    for name, beginning in named:
        tests = {test for test in names_in(HERE / name) if test.startswith("test_")}
        assert [t for t in tests if t.startswith(beginning)], f"{name} has no {beginning or 'test'}"
