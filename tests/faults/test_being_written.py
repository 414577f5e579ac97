"""Rows 1 and 26: a file that stays open for writing is named, and only it waits."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import unit
from agent.core.unit import FAULT, evaluate
from agent.disk import directory, files, filesystems, open_errors
from support.agents import Agent, running, wait_for, write
from support.sites import replace

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells whether a file is open for writing"
)

CONF = "a.qcb = done-job-self\nb.qcb = done-work-self-1\n"


@pytest.fixture
def cb(tmp_path: Path) -> Path:
    return write(tmp_path / "cb", CONF, a_qcb="block-self\n", b_qcb="block-self\n")


@contextlib.contextmanager
def open_for_writing(file: Path) -> Iterator[None]:
    with file.open("a") as writer:
        writer.write("kill-self\n")
        writer.flush()
        yield


def held(agent: Agent) -> list[str]:
    return [d["held"] for d in agent.status()["directories"]]


def cpu_ticks(agent: Agent) -> int:
    assert agent.process is not None
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_the_finding_names_the_file_and_the_process(tmp_path: Path, cb: Path) -> None:
    with running(tmp_path, cb) as agent:
        with open_for_writing(cb / "a.qcb"):
            wait_for(lambda: held(agent) == ["being-written"], "it is held")

            def findings() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = agent.status()["last_reload"]["diagnostics"]
                return found

            # The record follows. The search for the process has a bounded time, and is repeated.
            wait_for(lambda: f"process {os.getpid()} (" in str(findings()), "the process")
            assert [found["path"] for found in findings()] == [str(cb / "a.qcb")]
        wait_for(lambda: held(agent) == [None], "it is taken")
        assert "kill-self" in str(agent.served())


def test_it_is_cheap_to_wait_and_others_are_not_delayed(tmp_path: Path, cb: Path) -> None:
    """It must cost less than the time that it takes to start with so many files."""
    lines = [f"f{n}.qcb = done-work-self-{n + 2}\n" for n in range(3000)]
    for n in range(3000):
        (cb / f"f{n}.qcb").write_text("block-self\n")
    (cb / "callbacks.conf").write_text(CONF + "".join(lines))
    other = write(tmp_path / "other", "c.qcb = done-job-self\n", c_qcb="block-self\n")
    with running(tmp_path, cb, other) as agent, open_for_writing(cb / "a.qcb"):
        wait_for(lambda: held(agent)[0] == "being-written", "it is held")
        start = cpu_ticks(agent)
        agent.reload()
        once = max(cpu_ticks(agent) - start, 1)
        before = cpu_ticks(agent)
        for number in range(10):
            edit = f"# edit {number}."
            replace(other / "c.qcb", f"kill-self\n{edit}\n")
            # Asked of two callbacks: a list of thousands would be work for the agent.
            wait_for(
                lambda text=edit: text in str(agent.lookup("done-job-self", code=True)),  # type: ignore[misc]
                "the edit",
            )
        # Ten edits elsewhere read the waiting directory less than five times.
        assert cpu_ticks(agent) - before < 5 * once + 50


def test_a_removal_beside_it_takes_effect_at_once(tmp_path: Path, cb: Path) -> None:
    with running(tmp_path, cb) as agent, open_for_writing(cb / "a.qcb"):
        wait_for(lambda: held(agent) == ["being-written"], "it is held")
        (cb / "b.qcb").unlink()
        wait_for(lambda: agent.fires("done-work-self-1") == [], "the removal")
        assert agent.fires("done-job-self") == ["a.qcb"]


# One errno, one meaning --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, "unreadable"),
        (errno.ESTALE, "unreadable"),
        (errno.EACCES, "unreadable"),
        (errno.ENODEV, "unreadable"),
        (errno.EOVERFLOW, "too-big"),
        (errno.EMFILE, "out-of-resources"),
        (errno.ENFILE, "out-of-resources"),
        (errno.ENOMEM, "out-of-resources"),
        (errno.EAGAIN, None),
    ],
)
@pytest.mark.parametrize("name", ["a.qcb", "callbacks.conf"])
def test_an_error_of_open_means_one_thing(
    cb: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str | None, name: str
) -> None:
    before = directory.read(str(cb))
    os.utime(cb / name)
    real = os.open

    def failing(path: str, *arguments: int, **at: Any) -> int:
        if path == name:
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **at)

    monkeypatch.setattr(os, "open", failing)
    snapshot = directory.read(str(cb), before, frozenset({"a.qcb", "b.qcb"}))
    if code is None:
        assert snapshot.busy == {name}
        return
    assert not snapshot.busy
    judgement = evaluate(snapshot.reading, unit.Unit())
    assert code in {f.code for f in judgement.findings}
    assert judgement.held is not None


def test_where_a_right_is_missing_the_command_that_gives_it_is_said(
    cb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, user = cb / "a.qcb", f"owner {os.geteuid()}, group {cb.stat().st_gid}"
    (cb / "link.qcb").symlink_to(file)

    def of_file(name: str) -> tuple[str, str | None]:
        found, _ = open_errors.of_file(errno.EACCES, str(cb), name, False, True)
        assert isinstance(found, unit.Unusable)
        return found.problem.message, found.problem.hint

    def of_directory() -> tuple[str, str | None]:
        problem = open_errors.of_directory(str(cb), OSError(errno.EACCES, "denied")).problem
        return problem.message, problem.hint

    file.chmod(0o640)
    cb.chmod(0o750)
    mode = f"({user}, mode 0640)"
    assert of_file("a.qcb") == (f"the agent may not read a.qcb {mode}", f"chmod a+r {file}")
    assert of_file("link.qcb") == (f"the agent may not read link.qcb {mode}", f"chmod a+r {file}")
    message, hint = of_directory()
    assert message == f"the agent may not read {cb} ({user}, mode 0750)"
    assert hint == f"chmod a+rx {cb}"
    real = os.stat

    def fails(path: Any, **at: Any) -> os.stat_result:
        if path == str(file):
            raise PermissionError(errno.EACCES, "denied")
        return real(path, **at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", fails)
        message, hint = of_file("a.qcb")
    assert f": it may not search {cb} ({user}, mode 0750)" in message
    assert hint == f"chmod a+x {cb}"
    # Modes are not all.
    file.chmod(0o644)
    assert "its mode allows that: look at its ACL" in str(of_file("a.qcb")[1])


def test_a_file_in_the_middle_of_a_path_is_named(tmp_path: Path, cb: Path) -> None:
    (tmp_path / "file").write_text("")
    found = evaluate(directory.read(str(tmp_path / "file/cb")).reading, None)
    (finding,) = found.findings
    assert finding.code == "not-a-directory"
    assert finding.message == f"{tmp_path}/file is not a directory"
    (cb / "a.qcb").unlink()
    (cb / "a.qcb").symlink_to(tmp_path / "file" / "a.qcb")
    found = evaluate(directory.read(str(cb)).reading, None)
    assert found.held == FAULT
    assert {f.code for f in found.findings} == {"dangling-link"}


# The bytes of a unit -----------------------------------------------------------------------------


def test_too_many_bytes_are_not_read(tmp_path: Path) -> None:
    """Sparse files cost no disk, and as much memory as others."""
    count = files.MAX_UNIT_BYTES // unit.MAX_CODE_BYTES + 1
    cb = write(tmp_path / "cb", "".join(f"f{n}.qcb = done-job-self\n" for n in range(count)))
    for n in range(count):
        with (cb / f"f{n}.qcb").open("wb") as file:
            file.truncate(unit.MAX_CODE_BYTES)
    snapshot = directory.read(str(cb))
    found = evaluate(snapshot.reading, None)
    assert found.held == unit.ERROR
    assert [f.code for f in found.findings] == ["unit-too-big"]
    assert snapshot.size == 0
    # It is well as soon as it is smaller.
    for name in ("f0.qcb", "f1.qcb"):
        (cb / name).write_text("block-self\n")
    again = evaluate(directory.read(str(cb), snapshot).reading, None)
    assert again.held is None
    # Others count too.
    elsewhere = files.MAX_TOTAL_BYTES - files.MAX_UNIT_BYTES // 2
    third = evaluate(directory.read(str(cb), elsewhere=elsewhere).reading, None)
    assert [f.code for f in third.findings] == ["unit-too-big"]


def test_callbacks_conf_itself_may_be_too_much(cb: Path) -> None:
    """All other directories leave no room for one more byte."""
    snapshot = directory.read(str(cb), elsewhere=files.MAX_TOTAL_BYTES)
    found = evaluate(snapshot.reading, None)
    assert (found.held, [f.code for f in found.findings]) == (unit.ERROR, ["unit-too-big"])
    assert snapshot.retry


def test_no_memory_is_a_fault_of_the_directory(cb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(os, "read", fails)
    found = evaluate(directory.read(str(cb)).reading, None)
    assert (found.held, [f.code for f in found.findings]) == (FAULT, ["out-of-resources"])


# Row 25 ------------------------------------------------------------------------------------------


def test_without_proc_a_writer_is_noticed_all_the_same(tmp_path: Path, cb: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("to hide /proc takes root")
    agent = Agent(tmp_path, cb)
    agent.prefix = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "-"]
    with open_for_writing(cb / "a.qcb"):
        agent.launch()
        wait_for(agent.answers, "an answer")
        try:
            assert held(agent) == ["being-written"]
            assert "kill-self" not in str(agent.served())
        finally:
            agent.stop()


def test_where_the_type_is_unknown_it_is_said_once_and_polled(tmp_path: Path, cb: Path) -> None:
    agent = Agent(tmp_path, cb)
    agent.program = ["-c", "import agent.disk.mounts as m, agent.cli as c;"
                     "import agent.disk.filesystems as f;"
                     "m.Mounts.kind = lambda *_: f.Kind.UNKNOWN; c.main()"]  # fmt: skip
    agent.start()
    try:
        (note,) = [n for n in agent.status()["notes"] if "is not known" in n]
        assert str(cb) in note
        assert agent.status()["directories"][0]["watch"] == "scan"
        with open_for_writing(cb / "a.qcb"):
            wait_for(lambda: held(agent) == ["being-written"], "the refused lease")
        wait_for(lambda: held(agent) == [None], "it is taken")
        assert len([n for n in agent.status()["notes"] if "is not known" in n]) == 1
    finally:
        agent.stop()


def test_statfs_tells_the_kind(tmp_path: Path) -> None:
    assert filesystems.of("/dev/shm") is filesystems.Kind.LOCAL
    assert filesystems.of(str(tmp_path / "missing")) is filesystems.Kind.UNKNOWN
    for name in ("nfs4", "fuse.sshfs", "cifs", "9p"):
        assert filesystems.of_type(name) is filesystems.Kind.REMOTE
    assert filesystems.of_type("btrfs") is filesystems.Kind.LOCAL
    assert filesystems.of_type("of the future") is filesystems.Kind.UNKNOWN
