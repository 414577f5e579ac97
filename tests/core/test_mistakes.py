"""Every fixture of a mistake gives its findings, and its help lines repair it.

EXPECTED of fixtures/mistakes has the line of each finding, as in fixtures/broken, and below it the
help line. A help line is followed to the letter: `write: LINE` is pasted over the line, `remove
this line` removes it. Where no line can be given, REPAIRED is the corrected file, and REASON says
why.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from agent.core import trigger, unit
from agent.core.diagnostic import Diagnostic
from agent.core.event import NAMES, TYPES, Event
from agent.disk import directory

MISTAKES = Path(__file__).parents[2] / "fixtures" / "mistakes"
FOLDERS = sorted(path for path in MISTAKES.iterdir() if path.is_dir())


#: What people comment out in the way of another program is to stay so.
COMMENTED_OUT = {"commented-out-with-semicolon", "commented-out-with-slashes"}
#: Events as a farm has them: extras without words, and only the labels that a fixture has.
ORDINARY = [
    Event.from_text(
        f"{name}-{row.name}-{context}" + (f"-{row.example or extra}" if row.extra else "")
    )
    for name in NAMES
    for row in TYPES.values()
    for context in ("self", "parent", "hero", "shot A", "\u00dcbergabe")
    for extra in ("7", "Initialize")
]


def registrations(folder: Path) -> tuple[unit.Registration, ...]:
    plan = directory.read(str(folder)).reading.plan
    assert plan is not None
    return plan.registrations


def findings(folder: Path) -> list[Diagnostic]:
    found = unit.evaluate(directory.read(str(folder)).reading, None).findings
    return sorted(found, key=lambda f: (f.line or 0, f.column or 0))


def expected(found: list[Diagnostic]) -> str:
    return "".join(
        f"{Path(f.path).name}:{f.line or 1}:{f.column or 1}: {f.severity} [{f.code}]\n"
        f"    help: {f.hint}\n"
        for f in found
    )


def copied(folder: Path, to: Path) -> Path:
    to = to / folder.name
    shutil.copytree(folder, to)
    to.chmod(0o755)
    for path in to.iterdir():
        path.chmod(0o644)
    return to


def follow(conf: Path, helps: list[tuple[int, str]]) -> None:
    """Do what the help lines say, each at the line of its finding."""
    lines = conf.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    removed = set()
    for number, text in helps:
        if text == "remove this line":
            removed.add(number)
            continue
        assert text.startswith("write: "), text
        lines[number - 1] = text.removeprefix("write: ")
    kept = (line for number, line in enumerate(lines, 1) if number not in removed)
    conf.write_text("\n".join(kept), encoding="utf-8")


def test_there_are_at_least_forty() -> None:
    assert len(FOLDERS) >= 40
    by_hand = [folder.name for folder in FOLDERS if (folder / "REPAIRED").exists()]
    assert len(by_hand) < len(FOLDERS) / 10, by_hand


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_mistake_is_found_and_its_help_repairs_it(folder: Path, tmp_path: Path) -> None:
    there = copied(folder, tmp_path)
    found = findings(there)
    assert found
    assert expected(found) == (folder / "EXPECTED").read_text(encoding="utf-8")
    conf = there / "callbacks.conf"
    if (folder / "REPAIRED").exists():
        assert (folder / "REASON").read_text()
        assert not all((f.hint or "").startswith("write: ") for f in found)
        shutil.copy(folder / "REPAIRED", conf)
    else:
        follow(conf, [(f.line or 1, f.hint or "") for f in found])
    assert findings(there) == []
    served = registrations(there)
    assert served or folder.name in COMMENTED_OUT
    # Nor is it a line that loads and that no ordinary event satisfies.
    for term in (term for line in served for term in trigger.terms(line.trigger)):
        assert any(map(term.matches, ORDINARY)), term


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_findings_of_a_line_give_the_same_line(folder: Path) -> None:
    lines: dict[str, set[str]] = {}
    text = (folder / "EXPECTED").read_text(encoding="utf-8")
    for number, line in re.findall(r"^callbacks.conf:(\d+):.*\n    help: (write: .*)", text, re.M):
        lines.setdefault(number, set()).add(line)
    assert all(len(written) == 1 for written in lines.values())
