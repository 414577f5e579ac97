"""`callback-agent help`: the manual in the terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent import manual
from support import commands
from support.documents import MANUAL, ROOT

#: Seconds that the command may take on a busy machine.
SOON = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return commands.run("help", *arguments, cwd=ROOT, env=os.environ)


def test_without_a_topic_it_lists_topics_and_codes() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    for page in MANUAL.glob("*.md"):
        (line,) = [x for x in done.stdout.splitlines() if x.startswith(f"  {page.stem} ")]
        assert line.split(None, 1)[1]
    words = done.stdout.replace(",", "").split()
    assert {page.stem for page in MANUAL.glob("codes/*.md")} <= set(words)


@pytest.mark.parametrize("name", ["triggers", "trigger-syntax", "no-equals"])
def test_it_shows_a_topic_and_a_code(name: str) -> None:
    done = run(name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(name)
    assert "```" not in done.stdout


def test_an_unknown_topic_gives_the_list_and_a_near_miss() -> None:
    done = run("trigers")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean triggers" in done.stderr
    assert "troubleshooting" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "did you mean" not in run("xyzzy").stderr
    # A beginning is not as alike as a misspelling.
    assert "did you mean languages or language-off?" in run("Lang").stderr


@pytest.mark.parametrize("name", ["../README", "codes/no-equals", "codes", "__init__", ""])
def test_only_pages_are_found(name: str) -> None:
    assert manual.find(name) is None


def on_a_terminal(*words: str, **environ: str) -> None:
    """Run a command whose input and output are a terminal."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LESS", "NO_COLOR")}
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "agent", *words],
            cwd=ROOT,
            env={**kept, "TERM": "xterm", **environ},
            stdin=theirs,
            stdout=theirs,
            check=True,
            timeout=SOON,
        )
    finally:
        os.close(ours)
        os.close(theirs)


def test_on_a_terminal_it_uses_the_pager(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    on_a_terminal("help", "no-equals", PAGER=f"tee {shown}")
    assert shown.read_text().startswith("no-equals")


def test_on_a_terminal_topics_are_in_colour_unless_it_is_not_wanted(tmp_path: Path) -> None:
    """If the pager is less, which shows colours. This one does not wait for a key."""
    less = tmp_path / "less"
    less.write_text(f"#!/bin/sh\ncat > {tmp_path}/shown\necho $LESS > {tmp_path}/options\n")
    less.chmod(0o755)

    def seen(**environ: str) -> str:
        on_a_terminal("help", PAGER=str(less), **environ)
        return (tmp_path / "shown").read_text()

    coloured = re.findall(r"\x1b\[\d+m\x1b\[1m(.+?)\x1b\[0m", seen())
    assert {f"  {topic}" for topic in manual.topics()} <= set(coloured)
    assert (tmp_path / "options").read_text() == "-FRX\n"
    assert "\x1b[1m" not in seen(NO_COLOR="1")


def test_a_topic_with_the_name_of_a_code_is_shown_after_it() -> None:
    assert manual.topics().keys() & set(manual.codes()) == {"trigger-syntax"}
    shown = run("trigger-syntax").stdout
    assert shown.index("Severity: error") < shown.index("HYPHENS IN LABELS")


@pytest.mark.parametrize(
    ("shell", "status"), [("> /dev/full", 5), (">&-", 5), ("| true", 0), ("| head -n 1", 0)]
)
def test_an_output_that_ends_early_has_the_status_of_every_command(shell: str, status: int) -> None:
    script = f'"$0" -m agent help findings {shell}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert done.returncode == status, done
    assert len(done.stderr.splitlines()) == bool(status), done


def test_markdown_becomes_plain_text() -> None:
    page = """# title

Some `code`, **bold** and [a link](other.md).

![A plot](plot.svg)

| a | b |
|---|---|
| `x\\|y` | one |
| z | two words |

## More

```console
$ ls *.md | cat
```
"""
    assert manual.rendered(page).splitlines() == [
        "title",
        "",
        "Some `code`, bold and a link.",
        "",
        "A plot",
        "",
        "a      b",
        "`x|y`  one",
        "z      two words",
        "",
        "MORE",
        "",
        "    $ ls *.md | cat",
    ]


def test_the_last_cell_of_a_table_is_wrapped_under_itself() -> None:
    rows = f"| a | {'word ' * 40}|\n"
    lines = manual.rendered(rows).splitlines()
    assert len(lines) > 2
    assert all(line.startswith("   word") and len(line) <= manual.WIDTH for line in lines[1:])


def test_every_page_can_be_shown() -> None:
    for name in [*manual.topics(), *manual.codes()]:
        page = manual.find(name)
        assert page is not None
        assert manual.rendered(page).startswith(name), name


def test_asking_the_agent_does_not_load_the_manual() -> None:
    code = "import sys, agent.cli; sys.exit('agent.manual' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=SOON)
