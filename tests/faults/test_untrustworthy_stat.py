"""Row 32: file systems on which stat differs at every call. Equal bytes count as stable."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.timing import Timing
from faults.steps import started
from support.agents import ALL_LANGUAGES, Agent, wait_for, write
from support.run_with import run_with
from support.sites import replace

SOURCE = Path(__file__).parent.parent / "support" / "unstable_fs.c"

#: A machine that is suspended for a moment must not look like a writer.
PATIENT = Timing(writing=60.0)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="to mount by FUSE takes Linux and root"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc") or not shutil.which("pkg-config"):
        pytest.skip("there is no gcc or pkg-config")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if flags.returncode or not os.path.exists("/dev/fuse"):
        pytest.skip("there is no libfuse3 to compile with, or no /dev/fuse")
    program = tmp_path_factory.mktemp("fuse") / "unstable_fs"
    subprocess.run(["gcc", "-o", program, SOURCE, *flags.stdout.split()], check=True)
    return program


@contextlib.contextmanager
def mounted(program: Path, kind: str, folder: Path, point: Path) -> Iterator[None]:
    point.mkdir()
    server = subprocess.Popen([program, kind, folder, point, "-f"])
    try:
        wait_for(lambda: os.path.ismount(point), "the mount")
        yield
    finally:
        subprocess.run(["umount", "-l", point], check=False)
        server.terminate()
        server.wait()


def is_well(agent: Agent) -> bool:
    return bool(agent.status()["state"] == "ok")


@pytest.mark.parametrize("kind", ["mtime", "inode", "size"])
def test_equal_bytes_count_as_stable(tmp_path: Path, program: Path, kind: str) -> None:
    under = write(tmp_path / "under", "a.qcb = done-job-self\n", a_qcb="block-self\n")
    (under / "qb.conf").write_text(ALL_LANGUAGES)
    point = tmp_path / "mounted"
    with mounted(program, kind, under, point):
        agent = Agent(tmp_path, point).use(PATIENT)
        agent.qb_conf = point / "qb.conf"
        agent.start()
        try:
            assert is_well(agent), agent.reload()["diagnostics"]
            assert agent.fires("done-job-self") == ["a.qcb"]
            replace(under / "callbacks.conf", "a.qcb = done-work-self-1\n")
            wait_for(lambda: agent.fires("done-work-self-1") == ["a.qcb"], "the edit")
            (under / "a.qcb").unlink()
            wait_for(lambda: agent.fires("done-work-self-1") == [], "the removal")
            wait_for(lambda: "removed" in str(agent.history()[-1]["diagnostics"]), "the record")
            # Reading it again and again makes no records.
            count = len(agent.history())
            agent.reload()
            agent.reload()
            assert len(agent.history()) == count
        finally:
            agent.stop()


def test_check_reads_it(tmp_path: Path, program: Path) -> None:
    under = write(tmp_path / "under", "a.qcb = done-job-self\n", a_qcb="block-self\n")
    point = tmp_path / "mounted"
    with mounted(program, "mtime", under, point):
        done = subprocess.run(
            [sys.executable, *run_with(PATIENT), "check", "--unsafe-permissions", "ignore", point],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "being-written" not in done.stdout
    assert done.returncode == 0, done.stdout


def test_a_file_that_is_touched_all_the_time_is_served(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.qcb = done-job-self\n", a_qcb="block-self\n")
    touching = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\nwhile True: os.utime(sys.argv[1])",
         directory / "a.qcb"],
    )  # fmt: skip
    try:
        with started(Agent(tmp_path, directory).use(PATIENT)) as agent:
            assert is_well(agent)
            replace(directory / "callbacks.conf", "a.qcb = done-work-self-1\n")
            wait_for(lambda: agent.fires("done-work-self-1") == ["a.qcb"], "the edit")
            assert all(not record["held"] for record in agent.history())
    finally:
        touching.kill()
        touching.wait()
