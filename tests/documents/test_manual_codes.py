"""Every finding code has a page, and the page's example shows the finding.

How a page is written for this:

- Its first line is `# code`, its third begins with `Severity: `.
- A block with the word `wrong` makes the example: a file of the directory (```conf wrong
  callbacks.conf), the qb.conf beside it (```conf wrong qb.conf), or commands that run beside the
  directory, which is called `callback` (```sh wrong). `check` then gives the finding.
- The blocks with the word `right` are applied after it. `check` then does not give the finding.
- Files that callbacks.conf names and no block writes are there. Without a block for callbacks.conf
  it names notify.py, and the other files of the page.
- All languages are on unless the page says otherwise.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from agent.core import languages
from agent.core.diagnostic import CODES
from support.documents import MANUAL, ROOT, Block, blocks

AGENT = ROOT / "agent"
EVERYTHING_ON = "supervisor_language_flags = qube,perl,python,mail\n"

#: Strings in the source that look like a code and are something else.
IS_CODE = re.compile(r"[a-z]+(-[a-z0-9]+)*")
NOT_CODES = languages.CODES | {
    *("callback-agent", "latin-1", "utf-8", "utf-16-be", "by-name", "date-time"),
    *("x-params", "x-notifications", "name-type-context-extra"),
    # How a callback ended that the runner ran.
    *("not-enabled", "not-run", "timed-out"),
    # A mail of Qube.
    "subjob-status",
    *("failed-job-self", "failed-work-self-7", "failed-work-parent-7"),
}

#: Pages without an example that can be set up here. What they describe is shown by tests/faults.
NO_EXAMPLE = {
    *("bad-path", "bad-settings", "being-written", "kept-damaged", "no-answer", "not-utf-8"),
    *("out-of-resources", "qb-conf-lost", "removed", "too-long", "too-many-callbacks"),
    *("unmounted", "unreadable", "more-findings", "empty-conf", "internal-error", "not-checked"),
    *("restart-needed", "check-budget", "unit-too-big", "too-many-directories"),
}


#: Calls that take a code, and which of their arguments it is.
TAKES_CODE = {"Problem": 0, "ProblemError": 0, "Diagnostic": 1}


@cache
def codes_of_the_source() -> tuple[frozenset[str], Counter[str]]:
    """What the source gives as a code, and how often it has each string.

    A code is a kebab-case string with a hyphen, or what a call takes as one. The adapter for Slurm
    makes no findings, and has such strings for other things.
    """
    found: set[str] = set()
    strings: Counter[str] = Counter()
    for path in AGENT.rglob("*.py"):
        if path.is_relative_to(AGENT / "slurm"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings[node.value] += 1
                if "-" in node.value and IS_CODE.fullmatch(node.value):
                    found.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = TAKES_CODE.get(node.func.id)
                given = node.args[place : place + 1] if place is not None else []
                found |= {str(arg.value) for arg in given if isinstance(arg, ast.Constant)}
    return frozenset(found - NOT_CODES), strings


def pages() -> dict[str, str]:
    folder = MANUAL / "codes"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}


def test_every_code_of_the_source_is_in_the_registry() -> None:
    """A string that only looks like a code belongs in NOT_CODES."""
    found, _ = codes_of_the_source()
    assert {"no-equals", "missing-file"} <= found
    assert sorted(found - CODES.keys()) == [], (
        "add a row to CODES of agent/core/diagnostic.py, or, if it is no code, to NOT_CODES here"
    )


def test_every_code_of_the_registry_is_given() -> None:
    _, strings = codes_of_the_source()
    assert [code for code in CODES if strings[code] < 2] == [], (
        "no module of agent/ reports it: add what finds it, or remove its row from CODES"
    )


def test_every_code_has_its_page() -> None:
    assert sorted(CODES.keys() - pages()) == [], "write agent/manual/codes/CODE.md"
    assert sorted(pages().keys() - CODES.keys()) == [], (
        "agent/manual/codes has a page that is no code: add its row to CODES, or delete the page"
    )


def test_every_code_of_the_fixtures_is_in_the_registry() -> None:
    expected = (path.read_text() for path in (ROOT / "fixtures").rglob("EXPECTED"))
    found = {code for text in expected for code in re.findall(r"\[([a-z0-9-]+)\]$", text, re.M)}
    assert found
    assert sorted(found - CODES.keys()) == [], "an EXPECTED of fixtures/ names what is not in CODES"


def row_of(code: str) -> str:
    """The row of the list of findings."""
    about = CODES[code]
    severity = " or ".join(sorted({about.severity, about.other or about.severity}))
    explanation = about.explanation.replace("|", r"\|")
    return f"| [{code}](codes/{code}.md) | {severity} | {explanation} |"


def test_the_list_of_findings_is_that_of_the_registry() -> None:
    """UPDATE_DOCUMENTS=1 writes the rows that are there; a new one is added by hand."""
    page = MANUAL / "findings.md"
    text = page.read_text(encoding="utf-8")
    expected = re.sub(
        r"^\| \[([\w-]+)\].*$", lambda m: row_of(m[1]) if m[1] in CODES else m[0], text, flags=re.M
    )
    if text != expected and os.environ.get("UPDATE_DOCUMENTS") == "1":
        page.write_text(expected, encoding="utf-8")
    assert text == expected, "UPDATE_DOCUMENTS=1 writes these rows of agent/manual/findings.md"
    listed = re.findall(r"^\| \[([\w-]+)\]", text, re.M)
    missing = [row_of(code) for code in sorted(CODES.keys() - set(listed))]
    assert missing == [], "add these rows to agent/manual/findings.md, where they belong"
    assert sorted(listed) == sorted(CODES), "agent/manual/findings.md has a row too many"


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_page_states_the_severity_of_the_registry(code: str) -> None:
    assert code in pages(), f"write agent/manual/codes/{code}.md"
    stated = re.search(r"^Severity: (.*?)\. Effect", pages()[code], re.MULTILINE | re.DOTALL)
    page = f"agent/manual/codes/{code}.md"
    assert stated, f"{page}: the third line must begin with `Severity: ... . Effect: ...`"
    about = CODES[code]
    assert set(re.findall("error|warning|note", stated[1])) == {
        str(severity) for severity in (about.severity, about.other) if severity
    }, f"{page}: the severity is not that of CODES"


@pytest.mark.parametrize("code", sorted(pages()))
def test_a_page_has_its_form(code: str) -> None:
    lines = pages()[code].splitlines()
    page = f"agent/manual/codes/{code}.md"
    assert lines[0] == f"# {code}", page
    assert re.match(r"Severity: (error|warning|note)\b.*\. Effect: ", " ".join(lines[2:4])), page
    assert len(lines) <= 40, page


# -- the examples ---------------------------------------------------------------------------------


def examples(text: str, which: str) -> list[Block]:
    return [block for block in blocks(text) if which in block.info[1:]]


class Example:
    """The directory of one page's example."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.callback = folder / "callback"
        self.qb_conf = folder / "qb.conf"
        self.callback.mkdir(parents=True)
        self.qb_conf.write_text(EVERYTHING_ON)
        self._text = text
        files = {block.info[-1] for block in examples(text, "wrong")}
        if "callbacks.conf" not in files:
            named = {"notify.py", *(f for f in files if f.endswith((".py", ".qcb")))}
            lines = (f"{name} = failed-job-self\n" for name in sorted(named))
            (self.callback / "callbacks.conf").write_text("".join(lines))
            self._write_named()

    def apply(self, which: str) -> None:
        for block in examples(self._text, which):
            if block.language == "sh":
                subprocess.run(["bash", "-ec", block.text], cwd=self.folder, check=True)
                continue
            name = block.info[-1]
            where = self.folder if name == "qb.conf" else self.callback
            (where / name).write_text(block.text)
            if name == "callbacks.conf":
                self._write_named()

    def _write_named(self) -> None:
        """Write the files that callbacks.conf names and that are not there."""
        for line in (self.callback / "callbacks.conf").read_text().splitlines():
            name = line.partition("=")[0].strip().strip('"')
            if languages.language_of(name) and "/" not in name:
                path = self.callback / name
                if not path.exists():
                    path.write_text("mail-status\n" if name.endswith(".qcb") else "x = 1\n")


#: Runs the command with each list of arguments. In one process: a start costs more than a check.
CHECKS = """
import json, sys
from agent import cli
for arguments in json.loads(sys.argv[1]):
    assert cli.main(["check", "--json", *arguments]) in (0, 1), arguments
"""


def checks(*calls: list[str]) -> list[list[dict[str, str]]]:
    """The findings that `check` prints for each of these lists of arguments."""
    environ = {n: v for n, v in os.environ.items() if not n.startswith("CALLBACK_AGENT_")}
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, json.dumps(calls)],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    printed = done.stdout.splitlines()
    assert len(printed) == len(calls)
    return [json.loads(line)["diagnostics"] for line in printed]


Found = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """By code, the findings of each page's example, and those after its correction."""
    folder = tmp_path_factory.mktemp("codes").resolve()
    old = os.umask(0o022)
    try:
        made = {
            code: Example(folder / code, text)
            for code, text in pages().items()
            if examples(text, "wrong")
        }
        results = []
        for which in ("wrong", "right"):
            for example in made.values():
                example.apply(which)
            result: Found = {code: [] for code in made}
            plain = [str(e.callback) for e in made.values() if not _has_qb_conf(e)]
            special = {c: e for c, e in made.items() if _has_qb_conf(e)}
            (folder / "qb.conf").write_text(EVERYTHING_ON)
            together, *others = checks(
                ["--qb-conf", str(folder / "qb.conf"), *plain],
                *(["--qb-conf", str(e.qb_conf), str(e.callback)] for e in special.values()),
            )
            for row in together:
                code = Path(row["path"]).relative_to(folder).parts[0]
                result[code].append(row)
            results.append(result | dict(zip(special, others, strict=True)))
    finally:
        os.umask(old)
    return results[0], results[1]


def _has_qb_conf(example: Example) -> bool:
    return not example.qb_conf.is_file() or example.qb_conf.read_text() != EVERYTHING_ON


WITH_EXAMPLE = sorted(pages().keys() - NO_EXAMPLE)


@pytest.mark.parametrize("code", WITH_EXAMPLE)
def test_the_example_shows_the_finding(code: str, found: tuple[Found, Found]) -> None:
    wrong, _ = found
    severities = {row["severity"] for row in wrong[code] if row["code"] == code}
    assert severities, (
        f"`check` finds {wrong[code]} in the example of agent/manual/codes/{code}.md, expected"
        f" {code}; a code without an example belongs in NO_EXAMPLE of this file"
    )
    stated = re.search(r"^Severity: ([^.]*)\.", pages()[code], re.MULTILINE)
    assert stated
    assert [s for s in severities if s not in stated[1]] == []


@pytest.mark.parametrize("code", WITH_EXAMPLE)
def test_the_correction_removes_the_finding(code: str, found: tuple[Found, Found]) -> None:
    _, right = found
    left = [row for row in right[code] if row["severity"] == "error" or row["code"] == code]
    assert left == [], f"the blocks `right` of agent/manual/codes/{code}.md leave this"
