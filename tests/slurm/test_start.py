"""`slurm run` that cannot start: one line that says why, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.slurm.store import FORMAT_VERSION, Store
from support.agents import DEADLINE


def run(folder: Path, *options: str) -> tuple[int, str]:
    """The exit status of `slurm run`, and what it said."""
    command = [sys.executable, "-m", "agent", "slurm", "run", "--log", str(folder / "log")]
    command += ["--spool", str(folder / "spool"), "--state", str(folder / "state"), *options]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1, done.stderr
    return done.returncode, done.stderr.decode()


def test_no_spool_no_user_and_no_directory(tmp_path: Path) -> None:
    code, said = run(tmp_path)
    assert (code, "slurm setup" in said) == (2, True)
    (tmp_path / "spool").mkdir(mode=0o700)
    code, said = run(tmp_path, "--run-as", "nobody-here")
    assert (code, "there is no user nobody-here" in said) == (2, True)
    (tmp_path / "file").touch()
    code, said = run(tmp_path, "--state", str(tmp_path / "file"))
    assert (code, f"{tmp_path}/file: " in said) == (2, True)
    code, said = run(tmp_path, "--interpreter", "ruby=ruby")
    assert (code, "--interpreter is ruby=ruby" in said) == (2, True)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--metrics-file", "/etc/slurm/slurm.conf", "does not end in .prom"),
        ("--poll", "nan", "expected seconds"),
        ("--poll", "inf", "expected seconds"),
        ("--time-limit", "inf", "expected seconds"),
    ],
)
def test_a_value_that_cannot_be_used(
    tmp_path: Path, option: str, value: str, expected: str
) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    code, said = run(tmp_path, option, value)
    assert code == 2
    assert option in said
    assert expected in said


@pytest.mark.parametrize("damage", ["text", "form", "job"])
def test_a_database_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "state.db"
    if damage == "text":
        path.write_text("this is no database" * 1000)
    else:
        store = Store(str(path))
        sql = f"PRAGMA user_version = {FORMAT_VERSION + 1}"
        store._db.execute(sql if damage == "form" else "INSERT INTO jobs VALUES (7, X'C1')")
        store.close()
    code, said = run(tmp_path)
    assert code == 2
    assert f"{path}" in said
    assert {"text": "not a database", "form": "another version", "job": "is damaged"}[
        damage
    ] in said
    assert path.stat().st_size > 0
    assert os.listdir(tmp_path / "state").count("lock") == 1
