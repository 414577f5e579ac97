"""The programs of stress/ can be started by hand: by their scripts, and by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.agents import DEADLINE

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "scripts"


def run(
    command: list[str | Path],
    folder: Path,
    timeout: float = DEADLINE,
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHON": python}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=timeout
    )


def scripts_of_programs() -> list[str]:
    files = (path for path in SCRIPTS.iterdir() if path.is_file() and path.suffix == "")
    return sorted(path.name for path in files if '/long-run" ' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["fuzz", "hammer", "kills", "soak"])
def test_a_script_runs_its_program(tmp_path: Path, name: str) -> None:
    done = run([SCRIPTS / name, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py ")


def test_a_script_without_an_interpreter_says_how_to_get_one(tmp_path: Path) -> None:
    names = scripts_of_programs()
    assert {"bench", "hammer", "slurm-load"} <= {*names}
    for name in [*names, "long-run", "test-lowest"]:
        done = run([SCRIPTS / name], tmp_path, python=str(tmp_path / "none"))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.replace("_", "-").startswith(f"{name}: there is no Python at")
        assert done.stderr.endswith("scripts/setup, or set PYTHON\n")


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_the_limits_of_the_unit_are_enough(tmp_path: Path) -> None:
    done = run([sys.executable, TESTS, "limits", "--folder", tmp_path], tmp_path, 5 * DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_program_is_refused(tmp_path: Path) -> None:
    for arguments in ([], ["nothing"]):
        done = run([sys.executable, TESTS, *arguments], tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("usage: python tests NAME")
        assert "fuzz, hammer, kills, " in done.stderr
        assert "test_" not in done.stderr
