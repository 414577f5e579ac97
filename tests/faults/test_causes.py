"""A change of what is served has its cause in the same record, and nothing is off in silence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.steps import linux
from support.agents import ALL_LANGUAGES, Agent, running, wait_for, write
from support.sites import Site, start

CONF = "a.qcb = done-job-self\nb.qcb = failed-job-self\n"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = start(tmp_path_factory.mktemp("agent"))
    yield agent
    agent.stop()


@pytest.fixture
def site(agent: Agent, tmp_path: Path) -> Site:
    return Site(agent, tmp_path)


def causes(record: dict[str, Any]) -> set[tuple[str, str]]:
    return {(os.path.basename(c["path"]), c["change"]) for c in record["causes"]}


def without_cause(records: list[dict[str, Any]], settings: Path) -> list[Any]:
    """The changes of these records that none of their causes explains."""
    found = []
    for record in records:
        paths = {c["path"] for c in record["causes"]}
        for change in record["changes"]:
            directory = os.path.dirname(change["path"])
            near = [p for p in paths if p == directory or p.startswith(f"{directory}/")]
            if not near and str(settings) not in paths:
                found.append((record["event"], change))
    return found


def test_the_first_record_names_the_directories(tmp_path: Path) -> None:
    one = write(tmp_path / "one", CONF, a_qcb="", b_qcb="")
    two = write(tmp_path / "two", CONF, a_qcb="", b_qcb="")
    with running(tmp_path, one, two, tmp_path / "missing") as agent:
        (record,) = agent.history()[:1]
        assert without_cause([record], agent.qb_conf) == []
        assert causes(record) == {("one", "added"), ("two", "added")}


@linux
@pytest.mark.parametrize(("name", "gone"), [("b.qcb", ["b.qcb"]), ("callbacks.conf", None)])
def test_a_removal_that_is_believed_while_another_file_is_written(
    site: Site, name: str, gone: list[str] | None
) -> None:
    site.serve(CONF, a_qcb="", b_qcb="")
    site.seen()
    with (site.directory / "a.qcb").open("a"):
        (site.directory / name).unlink()
        wait_for(lambda: "b.qcb" not in [s[0] for s in site.served()], "the removal")
    site.reload()
    first, *_ = (r for r in site.records() if r["changes"])
    assert (name, "removed") in causes(first)
    assert without_cause(site.records(), site.agent.qb_conf) == []


def test_a_removal_that_is_believed_while_python_is_checked(site: Site) -> None:
    conf = CONF + "c.py = x-job-1\n"
    site.serve(conf, a_qcb="", b_qcb="", c_py="0\n")
    site.seen()
    (site.directory / "c.py").write_text("if 1:\n" + "    def f():\n        pass\n" * 4000)
    (site.directory / "b.qcb").unlink()
    wait_for(lambda: "b.qcb" not in [s[0] for s in site.served()], "the removal")
    site.reload()
    assert without_cause(site.records(), site.agent.qb_conf) == []


def test_the_settings_are_a_cause(site: Site) -> None:
    site.serve(CONF, a_qcb="", b_qcb="")
    other = write(site.folder / "other", CONF, a_qcb="", b_qcb="")
    for listed, languages in (
        ((site.directory, other), ALL_LANGUAGES),
        ((other,), ALL_LANGUAGES),
        ((other,), 'supervisor_language_flags = "python"\n'),
    ):
        site.seen()
        site.path_list(*listed, languages=languages)
        # A new directory that is read late has a record of its own.
        assert ("qb.conf", "modified") in causes(site.records()[0])
        assert any(record["changes"] for record in site.records())
        assert without_cause(site.records(), site.agent.qb_conf) == []


@linux
def test_a_directory_that_settles_after_it_was_listed(site: Site) -> None:
    site.serve(CONF, a_qcb="", b_qcb="")
    other = write(site.folder / "other", CONF, a_qcb="", b_qcb="")
    site.seen()
    with (other / "a.qcb").open("a"):
        site.path_list(site.directory, other)
    site.reload()
    assert len(site.served()) == 4
    assert without_cause(site.records(), site.agent.qb_conf) == []


def test_what_a_link_leads_to_is_a_cause(site: Site) -> None:
    target = site.folder / "target.qcb"
    target.write_text("block-self\n")
    site.serve(CONF, a_qcb="", b_qcb="")
    (site.directory / "b.qcb").unlink()
    (site.directory / "b.qcb").symlink_to(target)
    site.reload()
    site.seen()
    target.write_text("kill-self\n")
    record = site.reload()
    assert (causes(record), len(record["changes"])) == ({("b.qcb", "modified")}, 1)


def test_a_directory_that_comes_back_is_a_cause(site: Site) -> None:
    site.serve(CONF, a_qcb="", b_qcb="")
    site.seen()
    away = site.folder / "away"
    site.directory.rename(away)
    assert site.reload()["held"]
    (away / "b.qcb").write_text("kill-self\n")
    away.rename(site.directory)
    record = site.reload()
    assert len(record["changes"]) == 1
    assert without_cause(site.records(), site.agent.qb_conf) == []


def test_a_file_that_is_named_again_is_a_cause(site: Site) -> None:
    """While it was not named, nobody looked at it."""
    site.serve(CONF, a_qcb="", b_qcb="")
    site.edit(CONF.splitlines()[0] + "\n")
    (site.directory / "b.qcb").write_text("kill-self\n")
    site.reload()
    site.seen()
    site.edit(CONF)
    assert without_cause(site.records(), site.agent.qb_conf) == []


@pytest.mark.parametrize("held_before", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_conf_that_is_gone_is_an_error(
    tmp_path: Path, held_before: bool, restarted: bool
) -> None:
    """It serves nothing, also while the directory is held and where a last-good unit exists."""
    directory = write(tmp_path / "cb", CONF, a_qcb="", b_qcb="")
    agent = Agent(tmp_path, directory).start()
    try:
        if held_before:
            write(directory, "nonsense\n")
            assert agent.reload()["held"]
        if restarted:
            agent.stop()
        (directory / "callbacks.conf").unlink()
        if restarted:
            agent.start()
        record = agent.reload()
        assert agent.served() == []
        assert agent.status()["state"] == "degraded"
        assert record["held"] == []
        (found,) = record["diagnostics"]
        assert (found["severity"], found["code"]) == ("error", "no-conf")
        assert without_cause(agent.history(), agent.qb_conf) == []
    finally:
        agent.stop()


def test_a_directory_that_never_had_a_conf_is_an_error_too(tmp_path: Path) -> None:
    directory = tmp_path / "cb"
    directory.mkdir()
    with running(tmp_path, directory) as agent:
        (found,) = agent.reload()["diagnostics"]
        assert (found["severity"], found["code"]) == ("error", "no-conf")
        assert agent.status()["state"] == "degraded"
        # As its hint says.
        (directory / "callbacks.conf").write_text("")
        assert agent.reload()["diagnostics"] == []
        assert agent.status()["state"] == "ok"
        shutil.rmtree(directory)


def test_a_conf_that_was_emptied_is_a_warning(site: Site) -> None:
    site.serve(CONF, a_qcb="", b_qcb="")
    record = site.edit("")
    assert site.codes() == [("warning", "empty-conf")]
    assert (site.served(), site.agent.status()["state"]) == ([], "ok")
    assert ("callbacks.conf", "modified") in causes(record)
    # It stays until the file says something.
    os.utime(site.directory / "callbacks.conf")
    assert site.codes() == [("warning", "empty-conf")]
    site.edit("# nothing is served from here\n")
    assert site.codes() == []
