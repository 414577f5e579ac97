"""qb.conf, followed by a real agent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agent.timing import DEFAULTS
from support.agents import ALL_LANGUAGES, Agent, wait_for, write
from support.records import changes, found
from support.sites import Site, replace

ONE = "a.py = done-job-self\n"
TWO = ONE + "b.py = failed-job-self\n"


def test_the_path_list_takes_effect_live(site: Site) -> None:
    one = write(site.folder / "one", ONE, a_py="1\n")
    two = write(site.folder / "two", ONE, a_py="2\n")
    site.path_list(one)
    site.seen()
    text = site.agent.qb_conf.read_text()
    replace(site.agent.qb_conf, text.replace(f"{one}", f" {two} , {one}/../one ,"))
    wait_for(lambda: [c for _, _, c in site.served()] == ["2\n", "1\n"])
    # The record is made after the swap; this waits for it.
    record = site.reload()
    assert record["event"] == "reloaded"
    assert [(c["change"], c["path"]) for c in record["changes"]] == [("added", f"{two}/a.py")]
    assert {c["path"] for c in record["causes"]} == {str(site.agent.qb_conf)}
    before = site.agent.status()
    replace(site.agent.qb_conf, text.replace(f"{one}", f"{one},{two}"))
    wait_for(lambda: [c for _, _, c in site.served()] == ["1\n", "2\n"])
    # Another order is another index, in which no callback changed.
    record = site.reload()
    assert (record["changes"], record["generation"]) == ([], before["generation"] + 1)
    assert record["digest"] != before["digest"]
    replace(site.agent.qb_conf, text.replace(f"{one}", f"{two}"))
    wait_for(lambda: [c for _, _, c in site.served()] == ["2\n"])
    record = site.reload()
    assert [(c["change"], c["path"]) for c in record["changes"]] == [("removed", f"{one}/a.py")]
    assert site.agent.status()["state"] == "ok"


def test_a_finding_of_qb_conf_has_its_edit_as_cause(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    qb_conf = site.agent.qb_conf
    text = qb_conf.read_text()
    for edit, finding, change in (
        (f"{text}supervisor_language_flag = 0x5\n", [("warning", "unknown-setting")], "modified"),
        (text, [], "modified"),
        (None, [("error", "qb-conf-lost")], "removed"),
        (text.replace("\n", "\r"), [("error", "qb-conf-unreadable")], "modified"),
        (text, [], "modified"),
    ):
        site.seen()
        if edit is None:
            qb_conf.unlink()
        else:
            replace(qb_conf, edit)
        site.reload()
        (record,) = site.records()
        assert (found(record), record["changes"]) == (finding, [])
        assert [(c["path"], c["change"]) for c in record["causes"]] == [(str(qb_conf), change)]


def test_a_dropped_path_is_forgotten(site: Site) -> None:
    """Old code must not come back to life."""
    other = write(site.folder / "other", "")
    site.serve(TWO, a_py="old\n", b_py="old\n")
    site.path_list(other)
    assert site.served() == []
    write(site.directory, "b.py = failed-job-self\nnonsense\n", a_py="new\n", b_py="new\n")
    site.path_list(site.directory, other)
    assert site.served() == [("b.py", "failed-job-self", "new\n")]


def test_a_held_directory_that_is_dropped_is_not_held_any_more(site: Site) -> None:
    other = write(site.folder / "other", ONE, a_py="0\n")
    site.serve("nonsense\n")
    record = site.path_list(other)
    assert (record["held"], record["diagnostics"]) == ([], [])
    assert site.agent.status()["state"] == "ok"


def test_the_language_mask_takes_effect_live(site: Site) -> None:
    site.serve("a.py = done-job-self\nq.qcb = done-job-self\n", a_py="0\n", q_qcb="mail-status\n")
    assert [c["enabled"] for c in site.agent.lookup("done-job-self")["callbacks"]] == [True, True]
    before = site.agent.status()
    path = f"supervisor_universal_callback_path = {site.directory}\n"
    replace(site.agent.qb_conf, f"{path}supervisor_language_flags = 0x5\n")
    wait_for(
        lambda: (
            [c["enabled"] for c in site.agent.lookup("done-job-self")["callbacks"]] == [True, False]
        )
    )
    record = site.reload()
    assert changes(record) == [("modified", "q.qcb", "done-job-self", 2)]
    assert found(record) == [("warning", "language-off"), ("warning", "restart-needed")]
    assert (record["diagnostics"][0]["line"], record["held"]) == (2, [])
    assert record["digest"] != before["digest"]
    # Without a word about them the default counts: Perl and Python are off.
    replace(site.agent.qb_conf, path)
    wait_for(
        lambda: (
            [c["enabled"] for c in site.agent.lookup("done-job-self")["callbacks"]] == [False, True]
        )
    )
    assert site.agent.status()["state"] == "ok"


def test_one_record_says_that_a_supervisor_must_be_restarted(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    path = f"supervisor_universal_callback_path = {site.directory}\n"

    def restarts(record: dict[str, Any]) -> list[tuple[str, int | None]]:
        return [
            (d["message"].partition(" ")[0], d["line"])
            for d in record["diagnostics"]
            if d["code"] == "restart-needed"
        ]

    # What is served does not change: the warning alone makes the record.
    replace(site.agent.qb_conf, f"{path}supervisor_language_flags = qube,perl,python,mail,post\n")
    record = site.reload()
    assert (record["event"], record["changes"]) == ("reloaded", [])
    assert restarts(record) == [("supervisor_language_flags", 2)]
    assert [c["path"] for c in record["causes"]] == [str(site.agent.qb_conf)]
    assert site.agent.status()["last_reload"]["diagnostics"] == record["diagnostics"]
    # That it is gone makes no record.
    assert site.agent.reload()["diagnostics"] == []
    assert len(site.records()) == 1
    # Both parameters at once, one of them back to its default.
    other = write(site.folder / "other", ONE, a_py="0\n")
    replace(site.agent.qb_conf, f"\nsupervisor_universal_callback_path = {other}\n")
    record = site.reload()
    assert restarts(record) == [
        ("supervisor_universal_callback_path", 2),
        ("supervisor_language_flags", None),
    ]
    (site.folder / "other" / "a.py").write_text("1\n")
    assert restarts(site.reload()) == []
    assert [bool(restarts(r)) for r in site.records()] == [True, True, False]


def test_a_change_of_qb_conf_that_is_not_ours_makes_no_record(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    text = site.agent.qb_conf.read_text()
    replace(site.agent.qb_conf, f"# x\nqb_domain = \"a\nx_map = {{\n'x=\n}}\n{text}")
    site.reload()
    replace(site.agent.qb_conf, f"{text}qb_domain = = =\n")
    record = site.reload()
    assert (site.records(), record["diagnostics"]) == ([], [])


@pytest.mark.parametrize("loss", ["removed", "unreadable", "bad path list", "bad languages"])
def test_a_lost_qb_conf_leaves_the_last_settings_and_degrades(site: Site, loss: str) -> None:
    site.serve(ONE, a_py="0\n")
    qb_conf, text = site.agent.qb_conf, site.agent.qb_conf.read_text()
    before = site.agent.call("list", {"code": True})
    for _ in range(2):
        try:
            if loss == "bad path list":
                replace(qb_conf, f'supervisor_universal_callback_path = "{site.folder}\n')
            elif loss == "bad languages":
                replace(qb_conf, text.replace('"qube,perl,python,mail"', "4x"))
            else:
                qb_conf.unlink()
                if loss == "unreadable":
                    qb_conf.mkdir()
            wait_for(lambda: site.agent.status()["state"] == "degraded")
            record = site.reload()
            assert [d["severity"] for d in record["diagnostics"]] == ["error"]
            assert (record["held"], record["changes"]) == ([], [])
            assert record["diagnostics"][0]["path"] == str(qb_conf)
            assert site.agent.call("list", {"code": True}) == before
            # Edits of callbacks are still taken.
            (site.directory / "a.py").write_text("1\n")
            site.reload()
            assert site.served() == [("a.py", "done-job-self", "1\n")]
            (site.directory / "a.py").write_text("0\n")
        finally:
            if qb_conf.is_dir():
                qb_conf.rmdir()
            replace(qb_conf, text)
        wait_for(lambda: site.agent.status()["state"] == "ok")
        # The last edit of a.py may still be on its way.
        site.reload()
        before = site.agent.call("list", {"code": True})
    assert {r["event"] for r in site.records()} == {"reloaded"}


@pytest.mark.parametrize("loss", ["removed", "unreadable", "bad languages"])
def test_the_last_settings_outlast_restarts_and_later_reloads(tmp_path: Path, loss: str) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="0\n")
    agent = Agent(tmp_path)
    text = f"supervisor_universal_callback_path = {directory}\n"
    agent.qb_conf.write_text(ALL_LANGUAGES + text)
    agent.start()
    try:
        before = agent.call("list", {"code": True})["callbacks"]
        assert [c["enabled"] for c in before] == [True]
        if loss == "bad languages":
            replace(agent.qb_conf, f"supervisor_language_flags = 4x\n{text}")
        else:
            agent.qb_conf.unlink()
            if loss == "unreadable":
                agent.qb_conf.mkdir()
        agent.reload()
        for _ in range(2):
            assert agent.stop() == 0
            agent.start()
            agent.reload()
            assert agent.call("list", {"code": True})["callbacks"] == before
            status = agent.status()
            assert status["state"] == "degraded"
            sources = [status["settings"][name]["source"] for name in ("directories", "languages")]
            assert sources == [f"stored, from the last valid {agent.qb_conf}"] * 2
        if loss == "unreadable":
            agent.qb_conf.rmdir()
        replace(agent.qb_conf, ALL_LANGUAGES + text)
        agent.reload()
        assert agent.status()["state"] == "ok"
        assert agent.status()["settings"]["languages"]["source"] == f"{agent.qb_conf}:1"
    finally:
        agent.stop()


def test_a_qb_conf_that_is_added_later_is_used_and_missed_when_it_is_removed(
    tmp_path: Path,
) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="0\n")
    agent = Agent(tmp_path, directory)
    agent.qb_conf.unlink()
    agent.start()
    try:
        assert agent.status()["state"] == "ok"
        # It says nothing that is ours, yet now there is one.
        replace(agent.qb_conf, "qb_domain = farm\n")
        agent.reload()
        assert agent.status()["state"] == "ok"
        agent.qb_conf.unlink()
        wait_for(lambda: agent.status()["state"] == "degraded")
        replace(agent.qb_conf, ALL_LANGUAGES)
        wait_for(lambda: agent.lookup("done-job-self")["callbacks"][0]["enabled"])
        wait_for(lambda: agent.status()["state"] == "ok", "the record")
    finally:
        agent.stop()


def test_a_qb_conf_that_is_being_written_is_not_read_by_half(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    text = site.agent.qb_conf.read_text()
    before = site.agent.call("list", {"code": True})
    began = time.monotonic()
    with site.agent.qb_conf.open("w") as file:
        file.write(text[:10])
        file.flush()
        # Enough for some reloads, if the writer were not seen.
        while time.monotonic() - began < 0.3:
            assert site.agent.call("list", {"code": True}) == before
        file.write(text[10:])
    took = time.monotonic() - began
    site.reload()
    assert site.agent.call("list", {"code": True}) == before
    # If the machine was suspended, the writer may have been reported.
    assert site.records() == [] or took >= DEFAULTS.writing


def test_a_qb_conf_that_is_written_for_long_is_reported(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    text = site.agent.qb_conf.read_text()
    before = site.agent.call("list", {"code": True})
    with site.agent.qb_conf.open("w") as file:
        record = site.reload()
        assert found(record) == [("error", "being-written")]
        assert record["diagnostics"][0]["path"] == str(site.agent.qb_conf)
        assert site.agent.status()["state"] == "degraded"
        # Edits of callbacks do not wait for him.
        (site.directory / "a.py").write_text("1\n")
        site.reload()
        assert site.served() == [("a.py", "done-job-self", "1\n")]
        (site.directory / "a.py").write_text("0\n")
        file.write(text)
    wait_for(lambda: site.agent.status()["state"] == "ok")
    site.reload()
    assert site.agent.call("list", {"code": True})["digest"] == before["digest"]
