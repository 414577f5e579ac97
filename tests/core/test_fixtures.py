"""Every fixture gives exactly the findings that its EXPECTED file lists, good ones none.

EXPECTED has a line `file:line:column: severity [code]` for each finding; the wording of messages
is free. It was written by hand from the rules, not copied from what the agent printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import sqlite3
import subprocess
from pathlib import Path

import pytest

from support import commands

FIXTURES = Path(__file__).parents[2] / "fixtures"
DIRECTORIES = [
    FIXTURES / "example",
    *sorted(p for p in FIXTURES.glob("good/*") if p.is_dir()),
    *sorted(p for p in FIXTURES.glob("broken/*") if p.is_dir()),
]
QB_CONFS = sorted(p for p in FIXTURES.glob("qb/*") if p.is_dir())

ALL_LANGUAGES = 'supervisor_language_flags = "qube,perl,python,mail"\n'
FINDING = re.compile(
    r"(?P<path>.*?):(?P<line>\d+):(?P<column>\d+): (?P<severity>error|warning|note): "
    r".+ \[(?P<code>[a-z0-9-]+)\]"
)


def name_of(directory: Path) -> str:
    return str(directory.relative_to(FIXTURES))


def expected(directory: Path) -> list[str]:
    file = directory / "EXPECTED"
    assert file.exists(), f"write {file}: fixtures/README.md describes it"
    return sorted(file.read_text().splitlines())


def check(
    *arguments: str, cwd: Path, qbdir: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `callback-agent check` without the variables of the tests' own environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "QBDIR" and not name.startswith("CALLBACK_AGENT_")
    }
    environment["PYTHONPATH"] = str(FIXTURES.parent)
    if qbdir is not None:
        environment["QBDIR"] = str(qbdir)
    return commands.run("check", *arguments, cwd=cwd, env=environment)


def findings(output: str, directory: Path) -> list[str]:
    """The findings of check's text about files in `directory`, as EXPECTED has them."""
    found = []
    for line in output.splitlines():
        match = FINDING.fullmatch(line)
        if match is None:
            continue
        path = Path(os.path.relpath(directory / match["path"], directory))
        if path.parts[0] != "..":
            place = f"{path}:{match['line']}:{match['column']}"
            found.append(f"{place}: {match['severity']} [{match['code']}]")
    return sorted(found)


def status_for(lines: list[str]) -> int:
    return 1 if any(": error [" in line for line in lines) else 0


@pytest.fixture
def all_languages(tmp_path: Path) -> str:
    file = tmp_path / "qb.conf"
    file.write_text(ALL_LANGUAGES)
    return str(file)


@pytest.mark.parametrize("directory", DIRECTORIES, ids=name_of)
def test_a_directory_gives_its_expected_findings(directory: Path, all_languages: str) -> None:
    done = check("--qb-conf", all_languages, str(directory), cwd=FIXTURES)
    lines = expected(directory)
    assert findings(done.stdout, directory) == lines, f"{directory}/EXPECTED; {done}"
    assert done.returncode == status_for(lines), done


@pytest.mark.parametrize("directory", QB_CONFS, ids=name_of)
def test_a_qb_conf_gives_its_expected_findings(directory: Path, tmp_path: Path) -> None:
    # What it names, and the default, is healthy.
    for name in ("callback", "other", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "callbacks.conf").write_text("# nothing\n")
    done = check("--qb-conf", "qb.conf", cwd=directory, qbdir=tmp_path)
    lines = expected(directory)
    assert findings(done.stdout, directory) == lines, f"{directory}/EXPECTED; {done}"
    assert done.returncode == status_for(lines), done


def test_languages_that_are_off_are_told_of_and_are_no_errors(tmp_path: Path) -> None:
    """Without a qb.conf the supervisor runs neither Perl nor Python, and says nothing."""
    directory = FIXTURES / "example"
    done = check("--qb-conf", str(tmp_path / "none"), str(directory), cwd=FIXTURES)
    assert done.returncode == 0, done
    # logFailuresToDB.py and checkWork.pl; mail-status.qcb runs.
    assert findings(done.stdout, directory) == [
        "callbacks.conf:7:1: warning [language-off]",
        "callbacks.conf:9:1: warning [language-off]",
    ]


def test_the_json_has_the_same_findings_as_the_text(all_languages: str) -> None:
    directories = [str(FIXTURES / "broken" / name) for name in ("not-utf-8", "unknown-qcb")]
    text = check("--qb-conf", all_languages, *directories, cwd=FIXTURES)
    asked = check("--json", "--qb-conf", all_languages, *directories, cwd=FIXTURES)
    assert (asked.returncode, text.returncode) == (1, 1)
    rows = json.loads(asked.stdout)["diagnostics"]
    assert len(rows) == 5
    shown = [
        f"{os.path.relpath(row['path'], FIXTURES)}:{row['line'] or 1}:{row['column'] or 1}:"
        f" {row['severity']} [{row['code']}]"
        for row in rows
    ]
    assert sorted(shown) == findings(text.stdout, FIXTURES)


def test_checking_changes_nothing(all_languages: str) -> None:
    def tree() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in FIXTURES.rglob("*")}

    before = tree()
    check("--qb-conf", all_languages, *map(str, DIRECTORIES), cwd=FIXTURES)
    assert tree() == before


@pytest.mark.parametrize("directory", [*DIRECTORIES, *QB_CONFS], ids=name_of)
def test_a_broken_fixture_shows_something_and_a_good_one_nothing(directory: Path) -> None:
    lines = expected(directory)
    kind = directory.parent.name
    if kind != "qb":
        assert bool(lines) is (kind == "broken")
    for line in lines:
        assert re.fullmatch(r"[^:]+:\d+:\d+: (error|warning) \[[a-z0-9-]+\]", line)


def test_the_readme_names_every_fixture() -> None:
    readme = (FIXTURES / "README.md").read_text()
    named = set(re.findall(r"^- `([^`]+)/`", readme, re.MULTILINE))
    mistakes = (path for path in FIXTURES.glob("mistakes/*") if path.is_dir())
    there = {name_of(d) for d in (*DIRECTORIES, *mistakes, *QB_CONFS)}
    assert sorted(there - named) == [], "add a line to fixtures/README.md"
    assert sorted(named - there) == [], "fixtures/README.md names a folder that is not there"


def test_the_python_example_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Qb:
        """The part of the qb module that the callbacks use."""

        @staticmethod
        def jobid() -> int:
            return 1234

        @staticmethod
        def jobinfo(switch: str, value: int) -> list[dict[str, object]]:
            assert switch == "-id"
            return [{"id": value, "name": "render", "user": "ann"}]

    database = tmp_path / "failures.db"
    monkeypatch.setenv("SITE_FAILURES_DB", str(database))
    runpy.run_path(str(FIXTURES / "example" / "logFailuresToDB.py"), {"qb": Qb})
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT id, name, owner FROM failures").fetchall()
    assert rows == [(1234, "render", "ann")]
    assert "1234" in capsys.readouterr().out
