"""The spool: order, what is not an event, and files of hooks that died."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.slurm import spool as spools
from agent.slurm.spool import BadFile, Spool, SpoolError

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    (tmp_path / "spool").mkdir(mode=0o700)
    return Spool(str(tmp_path / "spool"))


def leave(spool: Spool, name: str, mtime: float | None = None) -> str:
    path = Path(spool.path) / name
    path.write_bytes(b"A=1\0")
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return name


def test_the_order_is_that_of_the_uptime_whatever_the_clock_says(spool: Spool) -> None:
    now = time.time()
    # Written while the clock was an hour ahead, and afterwards.
    third = leave(spool, f"{BOOT}.100.20.7.event", now + 3600)
    fourth = leave(spool, f"{BOOT}.1000.00.8.event", now)
    # Of an earlier run of the machine: its uptime says nothing, the file's time does.
    second = leave(spool, f"{OTHER_BOOT}.99999.00.9.event", 2000.0)
    first = leave(spool, f"{OTHER_BOOT}.5.00.9.event", 1000.0)
    leave(spool, f"{BOOT}.1.00.1.tmp")
    waiting = spool.waiting()
    assert [one.name for one in waiting] == [first, second, third, fourth]
    assert abs(waiting[2].time - (now - time.clock_gettime(time.CLOCK_BOOTTIME) + 100.2)) < 5


def test_of_the_same_uptime_the_first_file_comes_first(spool: Spool) -> None:
    second = leave(spool, f"{BOOT}.100.20.6.event", 1000.5)
    first = leave(spool, f"{BOOT}.100.20.7.event", 1000.25)
    assert [one.name for one in spool.waiting()] == [first, second]


def test_what_is_not_an_event_is_not_read(spool: Spool, tmp_path: Path) -> None:
    folder = Path(spool.path)
    leave(spool, "notes.txt")
    (tmp_path / "secret").write_text("A=1\0")
    names = [f"{BOOT}.1.00.{number}.event" for number in range(6)]
    (folder / names[0]).symlink_to(tmp_path / "secret")
    (folder / names[1]).mkdir()
    os.mkfifo(folder / names[2])
    os.link(tmp_path / "secret", folder / names[3])
    (folder / names[4]).write_bytes(b"x" * (spools.MAX_BYTES + 1))
    leave(spool, names[5])
    if os.geteuid() == 0:
        os.chown(folder / names[5], 4711, 4711)
    else:
        (folder / names[5]).unlink()
    found = [one.name for one in spool.waiting()]
    assert len(found) == (7 if os.geteuid() == 0 else 6)
    for name in found:
        opened = os.listdir("/proc/self/fd")
        with pytest.raises((BadFile, IsADirectoryError)):
            spool.read(name)
        assert os.listdir("/proc/self/fd") == opened
        assert spool.set_aside(name) == f"it is now in {folder}/bad"
        assert os.path.lexists(folder / "bad" / name)
    assert spool.waiting() == []


def test_the_oldest_files_set_aside_are_removed(spool: Spool) -> None:
    bad = Path(spool.path) / spools.BAD
    bad.mkdir()
    for number in range(spools.MAX_BAD):
        (bad / str(number)).touch()
    os.utime(bad / "5", (1, 1))
    leave(spool, "x")
    spool.set_aside("x")
    assert not (bad / "5").exists()
    assert (bad / "x").exists()
    assert len([*bad.iterdir()]) == spools.MAX_BAD


def test_a_link_does_not_lead_elsewhere(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (Path(spool.path) / spools.BAD).symlink_to(tmp_path / "elsewhere")
    leave(spool, "x")
    assert "cannot be moved" in spool.set_aside("x")
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_files_of_dead_hooks_are_removed_and_of_living_ones_not(spool: Spool) -> None:
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    dead = uptime - spools.DEAD_SECONDS - 1
    leave(spool, f"{BOOT}.{dead:.2f}.1.tmp")
    leave(spool, f"{OTHER_BOOT}.1.00.1.tmp", time.time() - spools.DEAD_SECONDS - 1)
    kept = {
        leave(spool, f"{BOOT}.{uptime:.2f}.1.tmp", 1000.0),
        leave(spool, f"{OTHER_BOOT}.2.00.1.tmp"),
        leave(spool, f"{BOOT}.{dead:.2f}.1.event"),
    }
    spool.remove_dead()
    left = {path.name for path in Path(spool.path).iterdir()}
    # A machine that started just now has no uptime that is dead.
    assert left == kept if dead > 0 else left >= kept


def test_a_spool_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with pytest.raises(SpoolError, match="slurm setup"):
        Spool(str(path))
    path.touch()
    with pytest.raises(SpoolError, match="not a directory"):
        Spool(str(path))
    path.unlink()
    path.mkdir()
    for mode in (0o777, 0o1777, 0o770):
        path.chmod(mode)
        with pytest.raises(SpoolError, match=f"mode {mode:04o}"):
            Spool(str(path))
    path.chmod(0o755)
    assert Spool(str(path)).waiting() == []


def test_a_file_that_cannot_be_removed_is_not_taken_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = leave(spool, f"{BOOT}.1.00.1.event")
    second = leave(spool, f"{BOOT}.2.00.1.event")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    spool.remove(first)
    assert [one.name for one in spool.waiting()] == [second]
    assert "cannot be moved" in spool.set_aside(second)
    assert spool.waiting() == []
    assert spool.stuck[first].endswith("cannot be removed: Operation not permitted")
    assert spool.stuck.keys() == {first, second}
