"""The examples at the top of the clients in Perl and C run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import drivers, transcripts
from clients.drivers import SCRIPTS, WARNINGS
from support.agents import DEADLINE


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[str]:
    with transcripts.serving(tmp_path, "callback") as replay:
        yield replay.pipe


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_synopsis_in_perl(pipe: str, tmp_path: Path) -> None:
    drivers.needed("perl")
    module = SCRIPTS / "CallbackAgent.pm"
    synopsis = re.search(r"=head1 SYNOPSIS\n(.*?)=head1", module.read_text(), re.DOTALL)
    assert synopsis
    program = tmp_path / "synopsis.pl"
    program.write_text(f"use strict; use warnings; my $pipe = '{pipe}';\n{synopsis[1]}")
    assert run(["perl", f"-I{SCRIPTS}", str(program)]) == "note.py: 16 bytes\n"


def test_the_documentation_in_perl_is_well_formed() -> None:
    drivers.needed("perl")
    checks = "use Pod::Checker; exit podchecker($ARGV[0])"
    run(["perl", "-e", checks, str(SCRIPTS / "CallbackAgent.pm")])


def test_the_example_in_c(pipe: str, tmp_path: Path) -> None:
    drivers.needed("c")
    header = (SCRIPTS / "callback_agent.h").read_text()
    example = re.search(r"( \*     callback_agent \*agent.*?)\n \*/", header, re.DOTALL)
    assert example
    text = re.sub(r"^ \* ", "", example[1], flags=re.MULTILINE).replace("NULL", f'"{pipe}"')
    program = tmp_path / "example.c"
    program.write_text(
        f'#include "callback_agent.h"\n#include <stdio.h>\nint main(void)\n{{\n{text}\n}}\n'
    )
    sources = [str(program), *map(str, SCRIPTS.glob("*.c"))]
    run(["gcc", *WARNINGS, "-O2", f"-I{SCRIPTS}", *sources, "-o", str(tmp_path / "example")])
    assert '"file":"note.py"' in run([str(tmp_path / "example")])
