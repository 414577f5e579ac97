"""hook.sh: it leaves whatever environment it gets, at once, and never fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.slurm import SPOOL
from agent.slurm.mapping import environment_of
from support.documents import ROOT
from support.slurm_site import call_hook, completion, install_hook, is_private, script

#: What users choose, and Slurm hands on.
ODD = {
    "SLURM_JOB_NAME": "two\nlines = one; $(touch /tmp/x) `id` 'quoted' \"so\" \\ %s \x1b[31m",
    "SLURM_JOB_COMMENT": "label=größe; \n\t=",
    "EMPTY": "",
}


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir(mode=0o700)
    return install_hook(tmp_path / "hook", tmp_path / "spool")


def left(hook: Path) -> list[Path]:
    return sorted((hook.parent / "spool").iterdir())


@pytest.mark.parametrize("shell", ["", "dash", "bash"])
def test_the_environment_is_left_as_it_is(hook: Path, shell: str) -> None:
    if shell and shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    # bash has a UID of its own, and dash drops names that it cannot write.
    given = {**completion(7, "FAILED", 3), **ODD, "BASH_FUNC_x%%": "() { :; }", "UID": "4711"}
    call_hook(hook, given, shell)
    (event,) = left(hook)
    assert re.fullmatch(r"[0-9a-f-]{36}\.[0-9]+\.[0-9]+\.[0-9]+\.event", event.name)
    assert is_private(event)
    assert environment_of(event.read_bytes()) == given


def test_bytes_that_are_not_utf_8_survive(hook: Path) -> None:
    environment = {**os.environb, b"SLURM_JOB_NAME": b"caf\xe9"}
    subprocess.run([hook], env=environment, check=True)
    (event,) = left(hook)
    assert environment_of(event.read_bytes())["SLURM_JOB_NAME"] == r"caf\xe9"


def test_many_hooks_at_once_leave_an_event_each(hook: Path) -> None:
    environments = [script("prolog_slurmctld", 100, task) for task in range(20)]
    hooks = [subprocess.Popen([hook], env=environment) for environment in environments]
    assert [one.wait() for one in hooks] == [0] * len(hooks)
    tasks = {environment_of(one.read_bytes())["SLURM_ARRAY_TASK_ID"] for one in left(hook)}
    assert tasks == set(map(str, range(20)))


def test_a_spool_that_is_not_there_is_said(hook: Path) -> None:
    (hook.parent / "spool").rmdir()
    said = call_hook(hook, script("prolog_slurmctld", 7)).stderr.decode()
    assert "an event of job 7 is lost" in said
    assert "No such file" in said
    assert call_hook(hook, completion(8, "FAILED")).stderr.decode().count("job 8 is lost") == 1


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "none", spool],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        (spool / "other").write_bytes(b"x" * 4096)
        hook = install_hook(tmp_path / "hook", spool)
        said = call_hook(hook, script("prolog_slurmctld", 7)).stderr.decode()
        assert "an event of job 7 is lost" in said
        assert "No space left" in said
        assert [one.name for one in spool.iterdir()] == ["other"]
        (spool / "other").unlink()
        assert call_hook(hook, script("prolog_slurmctld", 7)).stderr == b""
        assert len([*spool.iterdir()]) == 1
    finally:
        subprocess.run(["umount", spool], check=True)


def test_the_default_is_that_of_the_daemon() -> None:
    assert f"\nspool={SPOOL}\n" in (ROOT / "agent/slurm/hook.sh").read_text()
