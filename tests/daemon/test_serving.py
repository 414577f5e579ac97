"""What `serve` says when it serves: one line, and what is odd about the settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.agents import ALL_LANGUAGES, Agent, wait_for, write

ONE = "a.pl = done-job-self\n"


def test_the_first_line_says_what_is_served_from_where(tmp_path: Path) -> None:
    one = write(tmp_path / "one", ONE, a_pl="1\n")
    two = write(tmp_path / "two", "nonsense\n")
    agent = Agent(tmp_path, one, two).start()
    try:
        line = (
            "callback-agent: serving 1 callback of 2 directories; state degraded;"
            f" pipe {agent.pipe}; log {agent.log}"
        )
        # It is written after the first answers.
        wait_for(lambda: agent.errors.read_text().endswith("\n"), "the line")
        assert agent.errors.read_text() == f"{line}\n"
        # It is no message that `status` keeps.
        assert agent.status()["notes"] == []
    finally:
        agent.stop()


def test_a_qb_conf_that_is_named_and_not_there_is_a_note_until_it_is_there(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", ONE, a_pl="1\n")
    agent = Agent(tmp_path, directory, tmp_path / "none")
    agent.qb_conf.unlink()
    agent.start()
    try:
        note = f"{agent.qb_conf}: --qb-conf names this file, and it does not exist"
        wait_for(lambda: agent.errors.read_text().endswith("\n"), "the line")
        assert agent.errors.read_text().splitlines() == [
            "callback-agent: serving 1 callback of 2 directories; state degraded;"
            f" pipe {agent.pipe}; log {agent.log}; {note}"
        ]
        status = agent.status()
        assert status["notes"] == [note]
        found = status["last_reload"]["diagnostics"]
        assert ("note", "no-qb-conf") in [(d["severity"], d["code"]) for d in found]
        # What is not there is found with the setting that lists it.
        (missing,) = [d for d in found if d["code"] == "missing"]
        assert missing["message"].endswith("; it is listed by --callback-path")
        done = subprocess.run(
            [sys.executable, "-m", "agent", "check", "--qb-conf", agent.qb_conf, directory],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "[no-qb-conf]" in done.stdout) == (0, True)
        agent.qb_conf.write_text(ALL_LANGUAGES)
        wait_for(lambda: agent.status()["notes"] == [], "the end of the note")
    finally:
        agent.stop()
