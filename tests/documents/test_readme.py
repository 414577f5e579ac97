"""The README is short, its commands print what it shows, and its links lead somewhere.

How it is written for this is described in `documents`.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import pytest

from support.documents import (
    ROOT,
    Command,
    Comparison,
    bad_links,
    carry_out,
    hold,
    programs_not_run,
    rows,
    section,
    steps,
)

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
MAX_LINES = 250

pytestmark = pytest.mark.timeout(600)

#: What the README shows was made on Linux.
linux = pytest.mark.skipif(sys.platform != "linux", reason="the README's session was made on Linux")


@linux
def test_every_command_prints_what_the_readme_says() -> None:
    session = carry_out("README.md", TEXT)
    assert session.runs
    hold(README, session)
    assert session.left == ()


def test_no_changed_line_passes() -> None:
    """Every line that the README shows matters: another, a missing or an extra one fails."""
    tried = 0
    for step in steps(TEXT):
        said = step.printed if isinstance(step, Command) else ()
        assert Comparison().agree(said, said)
        for place, line in enumerate(said):
            if "..." in said[max(0, place - 1) : place + 2]:
                continue  # The lines beside it may be any.
            for wrong in (
                (*said[:place], f"~{line}", *said[place + 1 :]),
                (*said[:place], *said[place + 1 :]),
                (*said[:place], line, line, *said[place + 1 :]),
            ):
                assert not Comparison().agree(wrong, said), (step, wrong)
                tried += 1
    assert tried > 40


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= MAX_LINES, "move something from README.md to agent/manual"


def test_every_program_is_run() -> None:
    assert programs_not_run(TEXT) == []


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md", "agent/README.md"),
        *("fixtures/README.md", "tests/faults/README.md"),
    ],
)
def test_links_lead_somewhere(name: str) -> None:
    assert bad_links(ROOT / name) == []


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, as the cell of a table."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[.?])\s|\n\n", docstring, maxsplit=1)[0]
    return " ".join(sentence.split()).removesuffix(".").replace("|", "\\|")


def modules(layers: list[str]) -> list[str]:
    """A row for each module: the layers in this order, in each the files in alphabetical order."""
    agent = ROOT / "agent"
    files = [path.relative_to(agent) for path in agent.rglob("*.py")]
    with_code = [
        f
        for f in files
        if f.name != "__init__.py" or len(ast.parse((agent / f).read_text()).body) > 2
    ]
    with_code.sort(key=lambda f: (layers.index(f.parts[0].removesuffix(".py")), f))
    return [f"| `{file}` | {first_sentence(agent / file)} |" for file in with_code]


def test_the_architecture_lists_all_modules() -> None:
    """Each with the first sentence of its docstring. UPDATE_DOCUMENTS=1 writes the list."""
    page = ROOT / "agent" / "README.md"
    text = page.read_text(encoding="utf-8")
    layers = [row[0].strip("`/") for row in rows(section(text, "Layers"))[2:]]
    assert [n for n in layers if not list((ROOT / "agent").glob(f"{n}*"))] == [], (
        "the table of layers in agent/README.md names what is not there"
    )
    listed = section(text, "Modules")
    expected = "\n".join(["", "| module | |", "|---|---|", *modules(layers), ""])
    if listed != expected and os.environ.get("UPDATE_DOCUMENTS") == "1":
        head = "## Modules\n"
        page.write_text(text.replace(head + listed, head + expected), encoding="utf-8")
    assert listed == expected, (
        "UPDATE_DOCUMENTS=1 scripts/test tests/documents/test_readme.py writes agent/README.md"
    )


def test_every_long_run_is_described() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)`(?: \(`scripts/[\w-]+`\))? \|", text, re.M)
    runs = {path.stem for path in (ROOT / "tests" / "stress").glob("[a-z]*.py")}
    there = sorted(r for r in runs if not r.startswith(("test_", "conftest")))
    assert sorted(described) == there, "the table of long runs in .github/CONTRIBUTING.md"


def test_every_script_is_described() -> None:
    described = TEXT + (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in (ROOT / "scripts").iterdir():
        if path.name != "__pycache__":
            assert f"scripts/{path.name}" in described, (
                f"describe scripts/{path.name} in README.md or .github/CONTRIBUTING.md"
            )
    for name in re.findall(r"scripts/([\w.-]*\w)", described):
        assert (ROOT / "scripts" / name).exists(), name
