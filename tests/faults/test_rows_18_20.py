"""Rows 18 to 20: kills, two agents, temporary files of editors."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from faults.steps import (
    SOON,
    TOGETHER,
    Content,
    code_of,
    edit,
    held,
    waits_held,
    waits_well,
)
from support import editors
from support.agents import DEADLINE, Agent, running, wait_for
from support.onlooker import CONF, Onlooker, files, put

# Some of these make many waits, each of which may be long on a slow machine.
pytestmark = pytest.mark.timeout(600)


# 18 -----------------------------------------------------------------------------------------------


def test_row_18_kill_9(tmp_path: Path, directory: Path) -> None:
    """Row 18: kill -9, power cut: stale socket, half-written state file.

    The agent: the next start takes over the pipe by itself; state is written by rename and checked
    when read.
    """
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    for version in range(2, 7):
        agent.start()
        put(directory, files(version))
        if version % 2:
            wait_for(lambda v=version: tuple(agent.served()) == code_of(directory, v))  # type: ignore[misc]
        assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
        assert agent.pipe.is_socket(), "the socket of the dead one is in the way"
    agent.start()
    try:
        assert tuple(agent.served()) == code_of(directory, 6)
        assert agent.status()["state"] == "ok"
    finally:
        agent.stop()


def kept_units(agent: Agent) -> list[Path]:
    """The files that hold what was accepted."""
    found = (file for file in agent.state.rglob("*") if file.is_file())
    return [file for file in found if file.name != "settings" and not file.suffix]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled", "half of a new one", "one begun"])
def test_row_18_a_state_file_that_is_damaged(tmp_path: Path, directory: Path, damage: str) -> None:
    """Row 18: state is written by rename and checked by digest when read, thrown away with a
    warning when damaged. It never keeps the agent from starting.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent:
        (unit,) = wait_for(lambda: kept_units(agent))
    data = unit.read_bytes()
    # The directory is gone: only what was kept could be served.
    directory.rename(tmp_path / "away")
    if damage == "cut":
        unit.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        unit.write_bytes(b"")
    elif damage == "garbled":
        unit.write_bytes(data.replace(b"a.pl", b"x.pl"))
    else:
        suffix = ".new" if damage == "half of a new one" else ".new.begun"
        unit.with_name(unit.name + suffix).write_bytes(data[:10])
    for _ in range(2):
        with running(tmp_path, directory) as agent:
            assert held(agent) == {str(directory): "fault"}
            codes = {d["code"]: d["severity"] for d in agent.history()[0]["diagnostics"]}
            older_one = damage in ("half of a new one", "one begun")
            assert tuple(agent.served()) == (code_of(directory, 1) if older_one else ())
            told = {} if damage == "one begun" else {"kept-damaged": "warning"}
            assert codes == {"missing": "error"} | told
            assert agent.process is not None
            agent.stop(signal.SIGKILL)
    (tmp_path / "away").rename(directory)
    with running(tmp_path, directory) as agent:
        assert tuple(agent.served()) == code_of(directory, 1)
        waits_well(agent)


def test_row_18_a_held_directory_after_kill_9(tmp_path: Path, directory: Path) -> None:
    """Row 18 and the rule: after a restart, a crash or a power cut a held directory still serves
    what it served.
    """
    put(directory, files(1))
    agent = Agent(tmp_path, directory)
    agent.start()
    for _ in range(2):
        digest = agent.status()["digest"]
        edit(directory / CONF, "a.pl failed-job-self\n")
        waits_held(agent, directory, "error")
        agent.stop(signal.SIGKILL)
        agent.start()
        assert held(agent) == {str(directory): "error"}
        assert agent.status()["digest"] == digest
        assert tuple(agent.served()) == code_of(directory, 1)
        edit(directory / CONF, files(1)[CONF])
        waits_well(agent)
        assert agent.status()["digest"] == digest
    agent.stop()


# 19 -----------------------------------------------------------------------------------------------


def test_row_19_two_agents_for_one_pipe(tmp_path: Path, directory: Path) -> None:
    """Row 19: two agents started for one pipe.

    The agent: the second exits 4 and says who holds it.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        assert agent.process is not None
        for _ in range(2):
            second = subprocess.run(
                agent.command,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                cwd=tmp_path,
                check=False,
            )
            assert second.returncode == 4
            assert f"process {agent.process.pid}" in second.stderr
            assert str(agent.pipe) in second.stderr
            assert second.stderr.count("\n") == 1
        # Those who start at the same moment: one serves, whichever it is.
        assert agent.status()["pid"] == agent.process.pid
        look.saw_only(code_of(directory, 1))
    rivals = [Agent(tmp_path, directory) for _ in range(4)]
    for rival in rivals:
        rival.launch()
    processes = [rival.process for rival in rivals if rival.process]
    try:
        wait_for(lambda: sum(p.poll() is None for p in processes) == 1, "all but one to end")
        assert sorted(p.returncode for p in processes if p.poll() is not None) == [4, 4, 4]
        (winner,) = (p for p in processes if p.poll() is None)
        wait_for(agent.answers, "its answer")
        assert agent.status()["pid"] == winner.pid
    finally:
        for rival in rivals:
            rival.stop()


# 20 -----------------------------------------------------------------------------------------------


def test_row_20_droppings_of_editors(tmp_path: Path, directory: Path) -> None:
    """Row 20: editors' droppings: `.swp`, `4913`, `#x#`, `x~`, `.#x`.

    The agent: no record: only `callbacks.conf` and what it names count.
    """
    put(directory, files(1))
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        before = agent.status()
        records = len(agent.history())
        for _ in range(2):
            for name in (".a.pl.swp", "4913", "#a.pl#", "a.pl~", "callbacks.conf~", "c.pl"):
                (directory / name).write_text("dropped")
                agent.reload()
                (directory / name).write_text("dropped again")
            (directory / ".#a.pl").symlink_to("someone@somewhere.123:456")
            record = agent.reload()
            assert record["changes"] == []
            for file in directory.iterdir():
                if file.name not in files(1):
                    file.unlink()
            agent.reload()
        assert len(agent.history()) == records
        wait_for(lambda: len(agent.records()) == records, "the log")
        after = agent.status()
        assert [after[k] for k in ("digest", "generation", "last_reload")] == [
            before[k] for k in ("digest", "generation", "last_reload")
        ]
        look.saw_only(code_of(directory, 1))


def test_row_20_droppings_of_vim(tmp_path: Path, directory: Path) -> None:
    """Row 20, by vim itself: a file is opened, and left in three ways."""
    content = Content(directory)
    with running(tmp_path, directory) as agent, Onlooker(agent) as look:
        records = len(agent.history())
        vim = editors.vim_opens(directory / "a.pl")
        wait_for(lambda: (directory / ".a.pl.swp").exists(), "the swap file")
        vim.types("ihalf a line\x1b:preserve\r").sees("preserved")
        agent.reload()
        vim.types(":q!\r").ends()
        agent.reload()
        # A window that is closed leaves the swap file behind.
        vim = editors.vim_opens(directory / CONF)
        wait_for(lambda: (directory / f".{CONF}.swp").exists(), "the swap file")
        vim.abandon()
        agent.reload()
        assert len(agent.history()) == records
        look.saw_only(code_of(directory, 1))
        # Its 4913 and backup while it saves: one record, that of the edit. Where it was interrupted
        # between two steps, that was two edits, and it is done once more.
        for version in range(2, 102):
            look.sees(content.edited("a.pl", version, editors.vim), SOON)
            agent.reload()
            if not editors.vim_was_interrupted(directory / "a.pl", TOGETHER):
                assert len(agent.history()) == records + 1
                return
            records = len(agent.history())
    pytest.fail("vim was always interrupted: this machine is too busy")
