"""Edits, as a real agent accepts or holds them: what is served, and the record of each."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.rpc.messages import Record
from support import commands
from support.agents import Agent, running, summary, wait_for, write
from support.records import changes, found, held
from support.sites import Site, replace
from support.valid import check

ONE = "a.py = done-job-self\n"
TWO = ONE + "b.py = failed-job-self\n"

#: Attempts at an edit of two directories that is one reload: a reload of one of them may be under
#: way still, for the edit before.
TRIES = 10


# Edits that are accepted --------------------------------------------------------------------------


def test_the_first_record_is_started_and_adds_all(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", TWO, a_py="1\n", b_py="2\n")
    with running(tmp_path, directory) as agent:
        (record,) = agent.history()[:1]
        check(Record, record)
        assert (record["event"], record["generation"], record["callbacks"]) == ("started", 1, 2)
        assert changes(record) == [
            ("added", "a.py", "done-job-self", 1),
            ("added", "b.py", "failed-job-self", 2),
        ]
        owner = pwd.getpwuid(directory.stat().st_uid).pw_name
        assert (record["held"], record["causes"]) == (
            [],
            [{"path": str(directory), "change": "added", "owner": owner}],
        )


@pytest.mark.parametrize("file", ["a.py", "callbacks.conf"])
@pytest.mark.parametrize("by", [replace, Path.write_text], ids=["rename", "in place"])
def test_an_edit_is_served_by_itself_and_so_is_the_second(
    site: Site, file: str, by: Callable[[Path, str], object]
) -> None:
    site.serve(ONE, a_py="0\n")
    for number in (1, 2):
        text = f"{number}\n" if file == "a.py" else f"a.py = done-job-{number}\n"
        by(site.directory / file, text)
        trigger = "done-job-self" if file == "a.py" else f"done-job-{number}"
        code = text if file == "a.py" else "0\n"
        wait_for(lambda: site.served() == [("a.py", trigger, code)])  # noqa: B023
    records = wait_for(lambda: len(r := site.records()) >= 2 and r)
    assert records
    assert [r["event"] for r in records] == ["reloaded", "reloaded"]
    assert {c["path"] for r in records for c in r["causes"]} == {str(site.directory / file)}
    assert [r["generation"] for r in records] == [
        records[0]["generation"],
        records[0]["generation"] + 1,
    ]


def test_a_reload_serves_all_that_was_changed_before_the_call(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    for number in range(10):
        (site.directory / "a.py").write_text(f"{number}\n")
        site.reload()
        assert site.served() == [("a.py", "done-job-self", f"{number}\n")]


def test_a_reload_with_nothing_changed_gives_a_record_that_is_nowhere_else(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    logged = site.agent.log.read_bytes()
    record = site.agent.reload()
    assert (record["changes"], record["causes"], record["held"]) == ([], [], [])
    assert record["event"] == "reloaded"
    assert site.records() == []
    assert site.agent.log.read_bytes() == logged
    assert site.agent.status()["last_reload"] == summary(site.agent.history()[-1])


def test_what_changes_nothing_that_is_served_makes_no_record(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    before = site.agent.call("list", {"code": True})
    (site.directory / "a.py").touch()
    (site.directory / "callbacks.conf").touch()
    os.utime(site.directory / "a.py", (1, 1))
    (site.directory / "a.py").chmod(0o755)
    (site.directory / "notes.txt").write_text("not named\n")
    for dropping in (".a.py.swp", "4913", "#a.py#", "a.py~", ".#a.py"):
        (site.directory / dropping).write_text("x")
    replace(site.directory / "a.py", "0\n")
    site.reload()
    write(site.directory, "  a.py=done-job-self # a comment\n# another\n")
    site.reload()
    write(site.directory, '\ufeffa.py = "done-job-self"\r\n')
    site.reload()
    assert site.records() == []
    assert site.agent.call("list", {"code": True}) == before


def test_a_changed_byte_changes_the_digests_and_the_generation(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    before = site.agent.call("list")
    (site.directory / "a.py").write_text("1\n")
    record = site.reload()
    after = site.agent.call("list")
    assert changes(record) == [("modified", "a.py", "done-job-self", 1)]
    assert record["digest"] == after["digest"] != before["digest"]
    assert record["generation"] == after["generation"] == before["generation"] + 1
    assert record["changes"][0]["digest"] == after["callbacks"][0]["digest"]
    assert after["callbacks"][0]["digest"] != before["callbacks"][0]["digest"]
    assert after["callbacks"][1] == before["callbacks"][1]
    (site.directory / "a.py").write_text("0\n")
    assert site.reload()["digest"] == before["digest"]


def test_a_callback_whose_line_moved_is_modified(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    record = site.edit("a.py = done-job-self\n\nb.py = failed-job-self\n")
    assert changes(record) == [("modified", "b.py", "failed-job-self", 3)]
    assert record["event"] == "reloaded"


def test_path_and_trigger_are_the_identity(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    record = site.edit("a.py = done-job-self and done-job-parent\nb.py=failed-job-self\n")
    assert sorted(changes(record)) == [
        ("added", "a.py", "done-job-self && done-job-parent", 1),
        ("removed", "a.py", "done-job-self", 1),
    ]


def test_one_file_on_several_triggers_is_several_callbacks(site: Site) -> None:
    site.serve("a.py = done-job-self\na.py = submit-job-self\n", a_py="0\n")
    assert site.served() == [("a.py", "done-job-self", "0\n"), ("a.py", "submit-job-self", "0\n")]
    (site.directory / "a.py").write_text("1\n")
    assert [c[0] for c in changes(site.reload())] == ["modified", "modified"]


def test_several_files_that_change_together_are_one_record(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    other = write(site.folder / "other", TWO, a_py="0\n", b_py="0\n")
    site.path_list(site.directory, other)
    for number in range(TRIES):
        site.seen()
        with site.at_once():
            for directory in (site.directory, other):
                write(directory, TWO, a_py=f"x = {number}\n", b_py=f"y = {number}\n")
        site.reload()
        if len(site.records()) == 1:
            break
    (record,) = site.records()
    assert [c[0] for c in changes(record)] == ["modified"] * 4
    assert {c["path"] for c in record["causes"]} >= {f"{other}/a.py", f"{site.directory}/b.py"}


def test_sighup_reloads(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="0\n")
    with running(tmp_path, directory) as agent:
        (directory / "a.py").write_text("1\n")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: agent.served() == [(f"{directory}/a.py", "done-job-self", "1\n")])
        assert agent.process.poll() is None
        # Again, now that nothing changed and everything is recorded: no record.
        agent.reload()
        records = len(agent.history())
        agent.process.send_signal(signal.SIGHUP)
        agent.reload()
        assert len(agent.history()) == records


# Edits that are held ------------------------------------------------------------------------------


def test_an_error_holds_the_unit_and_says_where(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    before = site.agent.call("list", {"code": True})
    record = site.edit("a.py = done-job-self\nb.py = complte-jbo-self\n", a_py="1\n")
    assert (record["event"], held(record)) == ("held", [("cb", "error")])
    assert (record["changes"], record["generation"]) == ([], before["generation"])
    assert record["digest"] == before["digest"]
    (finding,) = [f for f in record["diagnostics"] if f["severity"] == "error"]
    assert finding["code"] == "unknown-type"
    assert finding["path"] == str(site.directory / "callbacks.conf")
    assert (finding["line"], finding["column"]) == (2, 16)
    assert "job" in finding["hint"]
    # No file of the edit is served, although a.py alone is valid.
    listed = site.agent.call("list", {"code": True})
    assert listed == before | {"held": [str(site.directory)]}
    status = site.agent.status()
    assert status["state"] == "degraded"
    assert status["last_reload"] == summary(record)


def test_the_same_findings_again_make_no_record_and_others_do(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    site.edit("a.py = nonsense\n")
    site.seen()
    site.edit("a.py = nonsense # still\n")
    assert site.records() == []
    generation = site.agent.status()["generation"]
    site.edit("a.py = nonsense\nb.py = nonsense\n")
    (record,) = site.records()
    # Nothing is newly held.
    assert record["event"] == "reloaded"
    assert (record["changes"], record["generation"]) == ([], generation)
    assert held(record) == [("cb", "error")]
    done = commands.run("status", "--pipe", str(site.agent.pipe), cwd=site.folder, env=os.environ)
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("last reload: ")]
    assert " still held, " in last
    assert last.endswith("callbacks.conf")
    codes = [f["code"] for f in record["diagnostics"]]
    assert sorted(codes) == ["missing-file", "not-an-event", "not-an-event"]


def test_the_same_bytes_again_restore_it(site: Site) -> None:
    """The commonest fault of programs that reload is a failure that sticks."""
    site.serve(ONE, a_py="0\n")
    before = site.agent.call("list", {"code": True})
    for _ in range(2):
        site.edit("a.py = nonsense\n")
        record = site.edit(ONE)
        assert (record["event"], record["held"], record["changes"]) == ("restored", [], [])
        assert (record["generation"], record["digest"]) == (before["generation"], before["digest"])
        assert site.agent.status()["state"] == "ok"
        assert site.agent.call("list", {"code": True}) == before


def test_a_corrected_edit_is_served_whole(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    site.edit("a.py = nonsense\n", a_py="1\n")
    record = site.edit("a.py = submit-job-self\n")
    assert record["event"] == "restored"
    assert site.served() == [("a.py", "submit-job-self", "1\n")]


def test_a_file_that_was_never_there_holds_until_it_is(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    record = site.edit(TWO)
    assert (held(record), found(record)) == ([("cb", "error")], [("error", "missing-file")])
    assert (record["diagnostics"][0]["line"], record["diagnostics"][0]["column"]) == (2, 1)
    assert site.served() == [("a.py", "done-job-self", "0\n")]
    (site.directory / "b.py").write_text("0\n")
    record = site.reload()
    assert (record["event"], record["held"]) == ("restored", [])
    assert changes(record) == [("added", "b.py", "failed-job-self", 2)]


def test_what_is_no_regular_file_holds(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    (site.directory / "b.py").mkdir()
    assert found(site.edit(TWO)) == [("error", "not-a-regular-file")]
    with site.at_once():
        (site.directory / "b.py").rmdir()
        os.mkfifo(site.directory / "b.py")
    record = site.reload()
    assert (held(record), found(record)) == (
        [("cb", "error")],
        [("error", "not-a-regular-file")],
    )
    assert site.served() == [("a.py", "done-job-self", "0\n")]


def test_python_that_compiled_before_and_does_not_now_holds(site: Site) -> None:
    site.serve("a.py = done-job-self\n", a_py="x = 1\n")
    record = site.edit(ONE, a_py="x = (\n")
    assert (record["event"], held(record)) == ("held", [("cb", "error")])
    (finding,) = record["diagnostics"]
    assert (finding["severity"], finding["path"]) == ("error", str(site.directory / "a.py"))
    assert finding["line"] == 1
    assert site.served() == [("a.py", "done-job-self", "x = 1\n")]
    assert site.edit(ONE, a_py="x = 2\n")["event"] == "restored"
    assert site.served() == [("a.py", "done-job-self", "x = 2\n")]


def test_python_that_never_compiled_is_served_with_a_warning(site: Site) -> None:
    """It may be meant for Python 2."""
    site.serve(ONE, a_py='print "hello"\n')
    wait_for(lambda: ("warning", "does-not-compile") in site.codes())
    record = site.edit(ONE, a_py='print "hullo"\n')
    assert record["held"] == []
    assert site.served() == [("a.py", "done-job-self", 'print "hullo"\n')]
    assert site.agent.status()["state"] == "ok"


def test_warnings_are_reported_and_the_callbacks_served(site: Site) -> None:
    conf = (
        "a.py = done-work-self\na.py = done-job-self\na.py = done-job-self\n"
        "a.py = Done-job-self\na.py = done-work-self-\\*\n"
        "q.qcb = done-job-self\na.py = done-job-o'neill\n"
    )
    source = "import os, sys\nos.system('x')\nsys.exit(1)\n"
    site.serve(conf, a_py=source, q_qcb="mail-stauts\n")
    expected = {
        *("never-fires", "duplicate-line", "name-case", "escaped-star", "single-quote"),
        *("unknown-code", "exits", "blocks"),
    }
    wait_for(lambda: {code for _, code in site.codes()} == expected)
    assert {severity for severity, _ in site.codes()} == {"warning"}
    assert site.agent.status()["state"] == "ok"
    assert len(site.served()) == 6


# Removals -----------------------------------------------------------------------------------------


def test_a_removed_implementation_goes_at_once_and_the_rest_stays(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    (site.directory / "a.py").unlink()
    record = site.reload()
    assert record["event"] == "reloaded"
    assert changes(record) == [("removed", "a.py", "done-job-self", 1)]
    assert (record["held"], found(record)) == ([], [("error", "removed")])
    assert site.served() == [("b.py", "failed-job-self", "0\n")]
    # Nothing is held, but a finding is an error.
    assert site.agent.status()["state"] == "degraded"
    # It counts as served as long as its line is accepted, so later edits are accepted.
    record = site.edit(TWO + "c.py = submit-job-self\n", c_py="0\n")
    assert (record["held"], [c[1] for c in changes(record)]) == ([], ["c.py"])
    (site.directory / "a.py").write_text("1\n")
    record = site.reload()
    assert (record["event"], changes(record)) == (
        "reloaded",
        [("added", "a.py", "done-job-self", 1)],
    )
    assert site.agent.status()["state"] == "ok"


def test_a_removed_implementation_goes_even_while_its_unit_is_held(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    site.edit(TWO + "nonsense\n")
    (site.directory / "a.py").unlink()
    record = site.reload()
    assert changes(record) == [("removed", "a.py", "done-job-self", 1)]
    assert held(record) == [("cb", "error")]
    assert sorted(found(record)) == [("error", "no-equals"), ("error", "removed")]
    assert site.served() == [("b.py", "failed-job-self", "0\n")]


def test_removed_in_the_edit_that_is_held_it_goes_too(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    with site.at_once():
        (site.directory / "a.py").unlink()
        write(site.directory, "b.py = nonsense\n")
    record = site.reload()
    assert held(record) == [("cb", "error")]
    assert site.served() == [("b.py", "failed-job-self", "0\n")]


def test_a_line_that_is_removed_with_its_file_is_no_error(site: Site) -> None:
    site.serve(TWO, a_py="0\n", b_py="0\n")
    site.edit("b.py = failed-job-self\n")
    (site.directory / "a.py").unlink()
    record = site.reload()
    assert (record["held"], record["diagnostics"]) == ([], [])
    # The accepted unit has no line of it any more: named again, it was never served.
    assert found(site.edit(TWO)) == [("error", "missing-file")]


@pytest.mark.parametrize("held_before", [False, True])
def test_a_removed_conf_serves_nothing_at_once(site: Site, held_before: bool) -> None:
    site.serve(ONE, a_py="0\n")
    if held_before:
        site.edit("nonsense\n")
    (site.directory / "callbacks.conf").unlink()
    record = site.reload()
    assert changes(record) == [("removed", "a.py", "done-job-self", 1)]
    assert (record["held"], found(record)) == ([], [("error", "no-conf")])
    assert record["event"] == ("restored" if held_before else "reloaded")
    (status, served) = (site.agent.status(), site.served())
    assert (status["state"], served) == ("degraded", [])
    record = site.edit(ONE)
    assert (record["event"], [c[0] for c in changes(record)]) == ("reloaded", ["added"])


def test_a_directory_that_is_gone_is_a_fault_and_what_was_served_stays(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    away = site.folder / "away"
    for _ in range(2):
        site.directory.rename(away)
        record = site.reload()
        assert (record["event"], held(record)) == ("held", [("cb", "fault")])
        assert (record["changes"], site.agent.status()["state"]) == ([], "degraded")
        assert site.served() == [("a.py", "done-job-self", "0\n")]
        away.rename(site.directory)
        wait_for(lambda: site.records()[-1]["event"] == "restored")
        record = site.records()[-1]
        assert (record["changes"], record["held"]) == ([], [])
        assert site.agent.status()["state"] == "ok"


def test_a_missing_directory_is_held_and_served_when_it_is_created(site: Site) -> None:
    record = site.path_list(site.directory)
    assert (record["event"], held(record)) == ("held", [("cb", "fault")])
    assert (site.served(), site.agent.status()["state"]) == ([], "degraded")
    write(site.directory, ONE, a_py="0\n")
    wait_for(lambda: site.served() == [("a.py", "done-job-self", "0\n")])
    wait_for(lambda: site.agent.status()["state"] == "ok")
    wait_for(lambda: "restored" in [r["event"] for r in site.records()])


def test_held_takes_precedence_over_restored_in_one_reload(site: Site) -> None:
    well = write(site.folder / "one", ONE, a_py="0\n")
    broken = write(site.folder / "two", "nonsense\n", a_py="0\n")
    site.path_list(well, broken)
    for _ in range(TRIES):
        well, broken = broken, well
        site.seen()
        with site.at_once():
            write(well, ONE)
            write(broken, "nonsense\n")
        site.reload()
        if len(site.records()) == 1:
            break
    (record,) = site.records()
    assert (record["event"], held(record)) == ("held", [(broken.name, "error")])


# The first reading, and restarts ------------------------------------------------------------------


def test_at_the_first_reading_the_good_lines_are_served_and_it_is_held(site: Site) -> None:
    record = site.serve(TWO + "a.py = nonsense\nc.py = submit-job-self\n", a_py="0\n", b_py="0\n")
    assert held(record) == [("cb", "error")]
    assert sorted(found(record)) == [("error", "missing-file"), ("error", "not-an-event")]
    assert [f for f, _, _ in site.served()] == ["a.py", "b.py"]
    assert site.agent.status()["state"] == "degraded"
    # What is served is its accepted unit: a later edit with an error leaves just that.
    site.edit("b.py = submit-job-self\nnonsense\n")
    assert [(f, t) for f, t, _ in site.served()] == [
        ("a.py", "done-job-self"),
        ("b.py", "failed-job-self"),
    ]
    # The line whose file never was there is no part of it.
    record = site.edit("a.py = done-job-self\nc.py = submit-job-self\n")
    assert found(record) == [("error", "missing-file")]


def test_a_restart_judges_as_before(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", TWO, a_py="x = 1\n", b_py="0\n")
    agent = Agent(tmp_path, directory).start()
    try:
        wait_for(lambda: agent.fires("failed-job-self") == ["a.py", "b.py"])
        agent.reload()
        assert agent.stop() == 0
        # Held over a restart: the stored unit is served.
        write(directory, "a.py = nonsense\n", a_py="x = 2\n")
        agent.start()
        assert agent.fires("failed-job-self") == ["a.py", "b.py"]
        assert [c for _, _, c in agent.served()] == ["x = 1\n", "0\n"]
        status = agent.status()
        assert (status["state"], status["generation"]) == ("degraded", 1)
        assert agent.stop() == 0
        # Removed while it was stopped: an error of its own, not one that holds.
        write(directory, TWO, a_py="x = 1\n")
        (directory / "b.py").unlink()
        agent.start()
        assert agent.fires("failed-job-self") == ["a.py"]
        record = agent.reload()
        assert (record["held"], found(record)) == ([], [("error", "removed")])
        assert agent.stop() == 0
        agent.start()
        record = agent.reload()
        assert (record["held"], found(record)) == ([], [("error", "removed")])
        assert agent.stop() == 0
        # The conf is removed: nothing is served, although a unit is stored.
        (directory / "callbacks.conf").unlink()
        agent.start()
        assert (agent.served(), agent.status()["state"]) == ([], "degraded")
    finally:
        agent.stop()


def test_python_that_compiled_before_a_restart_and_does_not_now_holds(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="x = 1\n")
    agent = Agent(tmp_path, directory).start()
    try:
        agent.reload()
        assert agent.stop() == 0
        write(directory, ONE, a_py="x = (\n")
        agent.start()
        assert [c for _, _, c in agent.served()] == ["x = 1\n"]
        assert held(agent.reload()) == [("cb", "error")]
    finally:
        agent.stop()
