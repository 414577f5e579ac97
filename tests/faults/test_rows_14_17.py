"""Rows 14 to 17: the log, bursts, edits during a reload, the clock."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from agent.timing import DEFAULTS
from faults.steps import (
    SOON,
    Content,
    code_of,
    edit,
    linux,
    root,
    started,
    stopped,
    traced,
    waits_well,
)
from support import editors
from support.agents import DEADLINE, Agent, running, wait_for
from support.onlooker import CONF, Answer, Onlooker, answer, files, put

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


# 14 -----------------------------------------------------------------------------------------------


@root
@linux
@pytest.mark.parametrize("form", ["json", "text"])
def test_row_14_the_disk_under_the_log_fills_up(
    tmp_path: Path, directory: Path, mount: Callable[..., None], form: str
) -> None:
    """Row 14: the disk under the log fills up.

    The agent: serving goes on; logging resumes by itself.
    """
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", disk)
    agent.log = disk / "reload.log"
    agent.flags = ["--log-format", form]
    versions = count(2)
    with started(agent), Onlooker(agent) as look:
        for round_of in (1, 2):
            fill(disk / "ballast")
            # The last page of the log has room for some records yet.
            refused = 0
            while refused < round_of:
                look.sees(content.edited("a.pl", next(versions)), SOON)
                refused = agent.errors.read_text().count("cannot be written")
            look.sees(content.edited("a.pl", next(versions)), SOON)
            assert agent.status()["state"] == "ok"
            assert_whole(agent, form)
            assert len(logged(agent, form)) < len(agent.history())
            (disk / "ballast").unlink()
            # By itself: no further edit is needed.
            wait_for(lambda: logged(agent, form) == told(agent, form), "the log to catch up")
            assert_whole(agent, form)
            # It is said after the last record is written, and before another failure is.
            wait_for(
                lambda n=round_of: agent.errors.read_text().count("is written again") == n,  # type: ignore[misc]
                "the note",
            )
        look.saw_only(*content.right)
        assert agent.errors.read_text().count("cannot be written") == 2, "each time once"


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with file.open("ab", 0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"x" * 512):
            pass


def logged(agent: Agent, form: str) -> list[int]:
    """The generations that the log tells of."""
    if form == "json":
        return [record["generation"] for record in agent.records()]
    lines = agent.logged().decode().splitlines()
    heads = [line for line in lines if line.startswith("[")]
    return [int(line.partition("generation ")[2].partition(",")[0]) for line in heads]


def told(agent: Agent, form: str) -> list[int]:
    return [record["generation"] for record in agent.history()]


def assert_whole(agent: Agent, form: str) -> None:
    """The log ends with a whole line; half a record is in no log."""
    # Just now it may be writing, and find that there is no room, and take back what it wrote.
    found = agent.logged()
    if form == "json":
        assert all(json.loads(line)["event"] for line in found.splitlines())


def test_row_14_the_directory_of_the_log_is_deleted(tmp_path: Path, directory: Path) -> None:
    """Row 14: the log's directory is deleted.

    The agent: serving goes on; logging resumes by itself.
    """
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    agent.log = tmp_path / "var" / "log" / "reload.log"
    with started(agent), Onlooker(agent) as look:
        wait_for(lambda: len(agent.records()) == 1, "the first record, and the directory")
        for version in (2, 3):
            shutil.rmtree(tmp_path / "var")
            look.sees(content.edited("a.pl", version), SOON)
            wait_for(lambda: len(agent.records()) == 1, "the record in a new log")
            assert agent.records()[0] == agent.history()[-1]
        # It cannot be made again: a file is in the way.
        shutil.rmtree(tmp_path / "var")
        (tmp_path / "var").write_text("in the way")
        look.sees(content.edited("a.pl", 4), SOON)
        look.sees(content.edited("a.pl", 5), SOON)
        (tmp_path / "var").unlink()
        wait_for(lambda: len(agent.records()) == 2, "the log to catch up")
        assert agent.records() == agent.history()[-2:]
        assert agent.status()["state"] == "ok"


@pytest.mark.parametrize("style", ["create", "copytruncate"])
def test_row_14_the_log_is_rotated(tmp_path: Path, directory: Path, style: str) -> None:
    """Row 14: the log goes on under both styles of logrotate, rename and create, copytruncate."""
    editors.need("logrotate")
    content = Content(directory)
    agent = Agent(tmp_path, directory)
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    agent.log = logs / "reload.log"
    conf = tmp_path / "logrotate.conf"
    conf.write_text(f"{agent.log} {{\n  rotate 9\n  {style}\n  nocompress\n}}\n")
    conf.chmod(0o644)
    with started(agent), Onlooker(agent) as look:
        for version in range(2, 8):
            look.sees(content.edited("a.pl", version), SOON)
            agent.reload()  # Then its record is made.
            wait_for(lambda: agent.records()[-1:] == agent.history()[-1:], "the record")
            if version % 2:
                editors.run("logrotate", "-f", "-s", tmp_path / "rotated", conf)
                look.sees(content.edited("b.pl", version), SOON)
                wait_for(lambda: agent.records() == agent.history()[-1:], "a fresh log")
        history = agent.history()
    parts = sorted(
        logs.iterdir(), key=lambda path: -int(path.suffix[1:] if path.suffix != ".log" else 0)
    )
    assert len(parts) == 4
    lines = [line for part in parts for line in part.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    assert records[:-1] == history, "none is lost, none is there twice"
    assert records[-1]["event"] == "stopped"


# 15 -----------------------------------------------------------------------------------------------


@linux
def test_row_15_a_burst_of_edits(tmp_path: Path, in_memory: Path) -> None:
    """Row 15: a burst: 10,000 edits in a few seconds.

    The agent: never more than one reload under way and one waiting; up to date within the time of
    one reload after the last edit. Memory does not grow with the number of edits.
    """
    # On a disk, ten thousand renames take longer than a few seconds.
    content = Content(in_memory / "callback")
    directory = content.directory
    right = {content.answer}
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:

        def burst(first: int, edits: int) -> float:
            for number in range(first, first + edits):
                content.now["a.pl"] = files(number)["a.pl"]
                edit(directory / "a.pl", content.now["a.pl"])
            last = time.monotonic()
            right.update(
                answer((directory, {**content.now, "a.pl": files(number)["a.pl"]}))
                for number in range(first, first + edits)
            )
            look.sees(content.answer, SOON)
            return time.monotonic() - last

        burst(2, 2_000)
        before = resident(agent)
        began = time.monotonic()
        earlier = len(agent.history())
        burst(10_000, 10_000)
        records = agent.history()[earlier:]
        most = (time.monotonic() - began) / DEFAULTS.quiet_period
        assert len(records) <= most, "more reloads than quiet periods"
        look.saw_only(*right)
        assert resident(agent) - before < 16 << 10, "memory grows with the number of edits, KiB"
        waits_well(agent)
        # And one plain edit after it is as quick as ever, whenever the machine is.
        assert any(burst(30_000 + number, 1) < 1.0 for number in range(10))


def resident(agent: Agent) -> int:
    """KiB of memory that the agent has."""
    assert agent.process is not None
    for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@linux
def test_row_15_a_pile_of_edits(tmp_path: Path) -> None:
    """Row 15, piled up: SIGSTOP, a burst in several directories, SIGCONT. One reload of it all."""
    places = [put(tmp_path / f"callback{number}", files(1)) for number in range(4)]
    with running(tmp_path, *places) as agent, Onlooker(agent) as look:
        for round_of in (1, 2):
            before = len(agent.history())
            with stopped(agent):
                for version in range(2, 202):
                    for place in places:
                        edit(place / "a.pl", files(version + 1000 * round_of)["a.pl"])
            last = {**files(1), "a.pl": files(201 + 1000 * round_of)["a.pl"]}
            look.sees(answer(*((place, last) for place in places)), SOON)
            # What is served is recorded a moment later.
            agent.reload()
            # More than one where the kernel's events came to the agent in parts: of one directory
            # after the other at the worst, but never one for each edit.
            assert len(agent.history()) - before <= len(places)


@root
@linux
def test_row_15_the_disk_under_the_state_is_slow(tmp_path: Path, directory: Path) -> None:
    """Row 15: up to date within the time of one reload after the last edit; also where keeping a
    unit takes long. strace makes each fsync take longer than an edit is waited for.
    """
    editors.need("strace")
    content = Content(directory)
    microseconds = int(2 * SOON * 1e6)
    slowly = ("-e", "trace=fsync", "-e", f"inject=fsync:delay_enter={microseconds}")
    with (
        running(tmp_path, directory) as agent,
        Onlooker(agent) as look,
        traced(agent, *slowly),
    ):
        for version in (2, 3, 4):
            look.sees(content.edited("a.pl", version), SOON)


# 16 -----------------------------------------------------------------------------------------------


def test_row_16_edits_during_a_reload(tmp_path: Path, directory: Path) -> None:
    """Row 16: edits during a reload.

    The agent: seen by the next reload, always.

    A second directory with so many lines that its reload takes long; edits come at every moment of
    it, of the same directory and of the other.
    """
    big = tmp_path / "big"
    lines = 5_000

    def conf(version: int) -> str:
        triggers = (f"v{version:05d}-job-{1000 + number}" for number in range(lines))
        return "".join(f"a.pl = {trigger}\n" for trigger in triggers)

    put(big, {"a.pl": "# big\n", CONF: conf(1)})
    put(directory, files(1))
    moments = random.Random(16)
    with running(tmp_path, directory, big) as agent:
        reloads = threading.Event()

        def keep_reloading() -> None:
            while not reloads.is_set():
                agent.reload()

        thread = threading.Thread(target=keep_reloading)
        thread.start()
        try:
            for version in range(2, 14):
                edit(big / CONF, conf(version))
                spin(moments.random() * 0.1)
                edit(big / "a.pl", f"# big {version}\n")
                spin(moments.random() * 0.1)
                put(directory, files(version))
                if version % 3 == 0:
                    last = (version, f"# big {version}\n", code_of(directory, version))
                    wait_for(lambda last=last: served(agent) == last, "all of the last edits")  # type: ignore[misc]
        finally:
            reloads.set()
            thread.join(DEADLINE)
        agent.reload()
        assert served(agent) == (13, "# big 13\n", code_of(directory, 13))
        assert agent.call("list")["callbacks"][-1]["trigger"] == f"v00013-job-{999 + lines}"


def served(agent: Agent) -> tuple[int, str, Answer]:
    """The version of the big directory's last line, its code, and what the other one serves."""
    *others, last = agent.call("list", {"code": True})["callbacks"]
    small = tuple((c["path"], c["trigger"], c["code"]) for c in others[:2])
    return int(last["trigger"][1:6]), last["code"], small


def spin(seconds: float) -> None:
    """Let a random time pass, so that what follows comes at another moment of the reload."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)


def test_row_16_reload_is_a_barrier(tmp_path: Path, directory: Path) -> None:
    """Row 16: when `reload` returns, every change made before the call is served."""
    put(directory, files(1))
    with running(tmp_path, directory) as agent:
        for version in range(2, 60):
            put(directory, files(version))
            agent.reload()
            assert tuple(agent.served()) == code_of(directory, version)


# 17 -----------------------------------------------------------------------------------------------

#: Moves the wall clock of one process by as many seconds as a file says, and no other clock.
_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *jump;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_JUMP"), O_RDONLY | O_CLOEXEC);
    jump = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (!failed && jump && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        at->tv_sec += *jump;
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@linux
def test_row_17_the_clock_jumps(tmp_path: Path, directory: Path) -> None:
    """Row 17: the clock jumps.

    The agent: monotonic time only; wall time only in records.

    The machine's own clock is everybody's, so only the agent's is moved: a small library, loaded
    before all others, answers for the wall clock.
    """
    editors.need("cc")
    source, library, jump = (tmp_path / name for name in ("clock.c", "clock.so", "jump"))
    source.write_text(_CLOCK)
    editors.run("cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl")
    jump.write_bytes(struct.pack("l", 0))
    content = Content(directory)
    agent = Agent(tmp_path, directory, LD_PRELOAD=str(library), CLOCK_JUMP=str(jump))
    with started(agent), Onlooker(agent) as look:
        version = 2
        year = 365 * 86400
        # A wait by the wall clock would be longer than an edit is waited for.
        for seconds in (0, 10 * year, -20 * year, 3600, -3600, 60, -60, 0):
            with jump.open("r+b", 0) as file:
                file.write(struct.pack("l", seconds))
            for write in (edit, editors.cp, editors.cp_p):
                look.sees(content.edited("a.pl", version, write), SOON)
                version += 1
            wall = time.strftime("%Y-%m", time.gmtime(time.time() + seconds))
            assert agent.history()[-1]["time"].startswith(wall), "the clock did not jump"
            assert agent.history()[-1]["duration_ms"] < 10_000
            assert 0 <= agent.status()["uptime"] < 3000
            # A writer is waited for 2 s, by the clock that does not jump.
            with (directory / "b.pl").open("r+b", 0):
                content.edited("a.pl", version)
                version += 1
            look.sees(content.answer, SOON)
        look.saw_only(*content.right)
