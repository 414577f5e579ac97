"""`scripts/demo-slurm`: it shows what it says, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import wait_for
from support.slurm_cluster import missing

ROOT = Path(__file__).parents[2]
#: Seconds that a slow machine may take for what an idle one does in 15.
LIMIT = 200.0
#: In the environment of all that a demonstration starts.
MARK = "DEMO_MARK"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def left_over(mark: str) -> list[str]:
    """The commands of the processes that have this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue  # It has ended.
    return found


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The script, which runs and is ended at the end, and the mark of what it starts.

    It runs with the Python of these tests, in place of one that it would install.
    """
    for folder in ("scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/demo-slurm", tmp_path / "scripts")
    programs = {
        "scripts/setup": '[ "$*" = run ]',
        ".venv/bin/python": f'exec {sys.executable} "$@"',
    }
    for path, text in programs.items():
        (tmp_path / path).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / path).chmod(0o755)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [tmp_path / "scripts/demo-slurm"],
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process, mark
            assert process.poll() is not None
            wait_for(lambda: not left_over(mark), "the end of all that the demonstration started")
        finally:
            process.terminate()
            process.wait()


def folder_of(shown: str) -> Path:
    """The folder of a demonstration, from what it printed."""
    found = re.search(r"^PrologSlurmctld=(/tmp/farm-.*)/hook$", shown, re.MULTILINE)
    assert found, shown
    return Path(found[1])


#: What callbacks did, in order, as the log of the adapter has it without the number of the job.
CALLBACKS = [
    *("frame.py", "alarm.py", "frame.py", "frame.py", "frame.py", "mail-status.qcb"),
    *("mail-status.qcb", "mail-status.qcb", "both.py"),
    *("frame.py", "other.py", "mail-status.qcb"),
]


def test_it_shows_callbacks_on_a_farm(started: tuple[subprocess.Popen[str], str]) -> None:
    demo, _ = started
    shown, _ = demo.communicate(timeout=LIMIT)
    assert demo.returncode == 0, shown
    assert shown.endswith("\n== Stopping\ndone\n")
    assert "(JobHeldAdmin)" in shown
    ran = re.findall(r": callback: (\S+): .* for job [0-9]+: (\S+) after", shown)
    # Those of one event end in any order.
    assert sorted(ran) == sorted((name, "succeeded") for name in CALLBACKS)
    assert shown.count("\nSlurm Job_id=") == CALLBACKS.count("mail-status.qcb")
    assert "\nstate: ok\nevents waiting: 0\n" in shown
    assert not folder_of(shown).exists()


def test_it_leaves_nothing_when_it_is_ended(started: tuple[subprocess.Popen[str], str]) -> None:
    demo, mark = started
    assert demo.stdout is not None
    shown = ""
    while "== sbatch" not in shown:
        line = demo.stdout.readline()
        assert line, shown
        shown += line
    running = " ".join(left_over(mark))
    assert all(name in running for name in ("munged", "slurmctld", "slurmd", "slurm run"))
    demo.send_signal(signal.SIGTERM)
    rest, _ = demo.communicate(timeout=LIMIT)
    assert demo.returncode == 143, rest
    assert "Traceback" not in rest
    assert not folder_of(shown).exists()
