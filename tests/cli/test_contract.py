"""What other programs and people rely on, sentence by sentence, against a real agent.

The commands are run as people run them. What the pipe does with bytes, and what an edit does, stand
in `test_pipe.py` and `test_reload.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import client
from agent.rpc.messages import Diagnostic, LookupResult, Record, StatusResult
from support import commands
from support.agents import DEADLINE, Agent, running, wait_for, write
from support.sites import Site, replace, start
from support.valid import check

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "fixtures" / "example"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = start(tmp_path_factory.mktemp("agent"))
    yield agent
    assert agent.stop() == 0


@pytest.fixture
def site(agent: Agent, tmp_path: Path) -> Site:
    return Site(agent, tmp_path)


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CALLBACK_AGENT", "XDG_", "QBDIR"))
    }
    env = kept | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)} | environ
    return commands.run(*arguments, cwd=folder, env=env)


def command(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(site.folder, *arguments, CALLBACK_AGENT_PIPE=str(site.agent.pipe))


def copied(folder: Path) -> Path:
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("EXPECTED"))
    return folder


# Settings ----------------------------------------------------------------------------------------


def test_flag_then_environment_then_qb_conf_then_default_and_status_says_which(
    tmp_path: Path,
) -> None:
    by_flag, by_variable = write(tmp_path / "flag", ""), write(tmp_path / "variable", "")
    in_conf = write(tmp_path / "conf", "")
    agent = Agent(tmp_path)
    agent.qb_conf.write_text(f"#\nsupervisor_universal_callback_path = {in_conf}\n")

    def directories() -> tuple[list[str], str]:
        agent.start()
        try:
            setting = agent.status()["settings"]["directories"]
            return setting["value"], setting["source"]
        finally:
            assert agent.stop() == 0

    agent.environ = {"CALLBACK_AGENT_PATH": str(by_variable)}
    agent.directories = (by_flag,)
    assert directories() == ([str(by_flag)], "--callback-path")
    agent.directories = ()
    assert directories() == ([str(by_variable)], "CALLBACK_AGENT_PATH")
    # Empty counts as unset.
    agent.environ = {"CALLBACK_AGENT_PATH": ""}
    assert directories() == ([str(in_conf)], f"{agent.qb_conf}:2")
    agent.qb_conf.write_text("supervisor_universal_callback_path =\n")
    agent.environ["QBDIR"] = str(tmp_path / "qube")
    assert directories() == ([f"{tmp_path}/qube/callback"], "default")


def test_the_path_list_may_be_quoted_and_is_normalised_never_resolved(site: Site) -> None:
    """Quotes come off, then it is split at commas; the same text is the same directory."""
    real = write(site.folder / "real", "a.py = done-job-self\n", a_py="0\n")
    link = site.folder / "link"
    link.symlink_to(real)
    paths = f'"{real}/../real,  {link}//, {real}/,{link}"'
    replace(site.agent.qb_conf, f"supervisor_universal_callback_path = {paths}\n")
    record = site.reload()
    assert [d["path"] for d in site.agent.status()["directories"]] == [str(real), str(link)]
    assert [d["code"] for d in record["diagnostics"]].count("duplicate-directory") == 2
    assert [c["path"] for c in site.agent.call("list")["callbacks"]] == [
        f"{real}/a.py",
        f"{link}/a.py",
    ]
    assert site.agent.status()["state"] == "ok"


def test_no_qb_conf_counts_as_an_empty_one(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\nq.qcb = done-job-self\n", a_py="0\n")
    (directory / "q.qcb").write_text("mail-status\n")
    agent = Agent(tmp_path, directory)
    agent.qb_conf.unlink()
    agent.start()
    try:
        answer = agent.lookup("done-job-self")
        # The default of supervisor_language_flags: Perl and Python are off, mail is on.
        assert [c["enabled"] for c in answer["callbacks"]] == [False, True]
        assert agent.status()["state"] == "ok"
    finally:
        assert agent.stop() == 0


@pytest.mark.parametrize(
    "text",
    [
        'supervisor_universal_callback_path = "/cb\n',
        "supervisor_universal_callback_path = { /cb }\n",
        "supervisor_language_flags = 0x\n",
    ],
)
def test_bad_settings_exit_2_and_say_where(tmp_path: Path, text: str) -> None:
    agent = Agent(tmp_path)
    agent.qb_conf.write_text(text)
    assert agent.launch().wait(DEADLINE) == 2
    assert re.search(rf"{agent.qb_conf}:1:\d+: error: ", agent.errors.read_text())
    assert not agent.pipe.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--log-format", "xml"],
        ["serve", "--pipe", "x" * 200],
        ["serve", "--pipe", "not-there/pipe"],
        ["serve", "now"],
        ["--pipe", "p", "serve"],
        ["lookup"],
        ["lookup", "a-job-self", "b-job-self"],
        ["lookup", "a-job-parent", "--job", "7"],
        ["lookup", "a-job-self", "--job", "x"],
        ["list", "--nonsense"],
        ["frobnicate"],
        [],
    ],
)
def test_bad_usage_exits_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


# Commands ----------------------------------------------------------------------------------------


def test_the_example_directory_answers_as_its_page_says(site: Site) -> None:
    site.path_list(copied(site.directory))

    def lookup(event: str) -> tuple[list[str], int]:
        done = command(site, "lookup", event, "--json")
        answer = json.loads(done.stdout)
        check(LookupResult, answer)
        assert answer == site.agent.lookup(event)
        return [c["file"] for c in answer["callbacks"]], done.returncode

    assert lookup("failed-job-self") == (["logFailuresToDB.py", "mail-status.qcb"], 0)
    assert lookup("complete-work-self-1-10") == (["checkWork.pl"], 0)
    assert lookup("killed-job-self") == (["mail-status.qcb"], 0)
    assert lookup("submit-job-self") == ([], 1)
    assert site.agent.status()["state"] == "ok"


def test_lookup_exits_0_only_where_an_enabled_callback_fires(site: Site) -> None:
    write(site.directory, "a.py = done-job-self\nq.qcb = killed-job-self && done-job-parent\n")
    write(site.directory, (site.directory / "callbacks.conf").read_text(), a_py="0\n")
    (site.directory / "q.qcb").write_text("fail-self\n")
    site.path_list(site.directory, languages="supervisor_language_flags = qube\n")
    assert command(site, "lookup", "done-job-self").returncode == 1
    assert command(site, "lookup", "killed-job-self").returncode == 1
    with_parent = ["--occurred", "submit-job-self", "--occurred", "killed-job-parent"]
    assert command(site, "lookup", "killed-job-self", *with_parent).returncode == 0
    assert command(site, "explain", "killed-job-self").returncode == 0
    assert command(site, "explain", "modified-host-self-x").returncode == 0
    assert command(site, "list").returncode == 0


def test_the_options_of_a_job_make_an_object_event(site: Site) -> None:
    site.serve("a.py = done-job-render\nb.py = done-job-7\nc.py = done-job-parent\nd.py=done-job-1")
    write(site.directory, (site.directory / "callbacks.conf").read_text() + "\n", a_py="0\n")
    for name in "bcd":
        (site.directory / f"{name}.py").write_text("0\n")
    assert site.reload()["held"] == []
    job = ["--job", "7", "--label", "render", "--parent", "6", "--pgrp", "6"]
    owner = ["--owner-job", "8", "--owner-label", "x", "--owner-parent", "7", "--owner-pgrp", "6"]
    done = command(site, "lookup", "done-job-self", *job, *owner, "--json")
    files = [c["file"] for c in json.loads(done.stdout)["callbacks"]]
    assert (done.returncode, files) == (0, ["a.py", "b.py", "c.py"])


def test_status_and_reload_exit_1_where_something_is_wrong(site: Site) -> None:
    site.serve("a.py = done-job-self\n", a_py="0\n")
    assert command(site, "status").returncode == 0
    assert command(site, "reload").returncode == 0
    (site.directory / "callbacks.conf").write_text("nonsense\n")
    done = command(site, "reload", "--json")
    record = json.loads(done.stdout)
    check(Record, record)
    assert (done.returncode, bool(record["held"])) == (1, True)
    done = command(site, "status", "--json")
    check(StatusResult, json.loads(done.stdout))
    assert (done.returncode, json.loads(done.stdout)["state"]) == (1, "degraded")
    # An error that holds nothing: reload is 0, status is 1.
    write(site.directory, "a.py = done-job-self\n")
    (site.directory / "a.py").unlink()
    assert command(site, "reload").returncode == 0
    assert command(site, "status").returncode == 1


def test_without_an_agent_it_exits_3_in_one_line(tmp_path: Path) -> None:
    for arguments in (["lookup", "a-job-self"], ["explain", "a-job-self"], ["list"], ["reload"]):
        done = run(tmp_path, *arguments, "--pipe", str(tmp_path / "none"))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_the_log_command_shows_the_last_records(site: Site) -> None:
    site.serve("a.py = done-job-self\n", a_py="0\n")
    site.edit("a.py = done-job-self\n", a_py="1\n")
    site.agent.logs_all()
    done = command(site, "log", "-n", "1")
    assert done.returncode == 0
    assert json.loads(done.stdout) == site.agent.history()[-1]


def test_check_reads_as_serve_does_and_changes_nothing(site: Site) -> None:
    conf = "a.py = complte-jbo-self\nb.py = done-work-self\nc.py = done-job-self\n"
    write(site.directory, conf, b_py="import sys\nsys.exit()\n")
    site.path_list(site.directory)
    before = sorted(os.listdir(site.folder))
    options = ("--output-format", "concise", "--qb-conf", str(site.agent.qb_conf))
    done = command(site, "check", str(site.directory), *options)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    for line in lines:
        assert re.fullmatch(r"/.+:\d+:\d+: (error|warning|note): .+ \[[a-z0-9-]+\]", line)
    assert sorted(os.listdir(site.folder)) == before
    wait_for(lambda: ("warning", "exits") in site.codes())
    served = site.agent.reload()["diagnostics"]
    done = run(site.folder, "check", "--json", "--qb-conf", str(site.agent.qb_conf))
    checked = json.loads(done.stdout)
    assert list(checked) == ["diagnostics"]
    for finding in checked["diagnostics"]:
        check(Diagnostic, finding)
    assert sorted(checked["diagnostics"], key=str) == sorted(served, key=str)
    assert len(lines) == len(served)


def test_check_exits_0_where_there_are_only_warnings(tmp_path: Path) -> None:
    write(tmp_path / "cb", "a.py = done-work-self\n", a_py="0\n")
    done = run(tmp_path, "check", "cb")
    assert done.returncode == 0
    assert "[never-fires]" in done.stdout


def test_check_exits_1_where_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cb").mkdir()
    done = run(tmp_path, "check", "cb")
    assert done.returncode == 1
    # A finding about a whole file prints as 1:1.
    assert done.stdout.startswith(f"{tmp_path}/cb/callbacks.conf:1:1: error: ")
    assert run(tmp_path, "check", "nowhere").returncode == 1


# Answers -----------------------------------------------------------------------------------------


def test_a_callback_has_these_fields_and_no_others(site: Site) -> None:
    site.serve("# x\n  a.py=done-job-self||( (killed-job-self and x-job-*) )\n", a_py="é\n")
    (one,) = site.agent.call("list")["callbacks"]
    assert one == {
        "file": "a.py",
        "path": f"{site.directory}/a.py",
        "directory": str(site.directory),
        "language": "python",
        "trigger": "done-job-self || (killed-job-self && x-job-*)",
        "line": 2,
        "digest": "sha256:" + hashlib.sha256("é\n".encode()).hexdigest(),
        "enabled": True,
    }
    (with_code,) = site.agent.call("list", {"code": True})["callbacks"]
    assert with_code == {**one, "code": "é\n"}
    (found,) = site.agent.lookup("complete-job-self")["callbacks"]
    assert found == one
    (found,) = site.agent.lookup("complete-job-self", code=True)["callbacks"]
    assert found == with_code
    (found,) = site.agent.call("explain", {"event": "complete-job-self"})["callbacks"]
    assert set(found) - set(one) == {"verdict", "reason"}


def test_code_that_is_not_utf_8_comes_as_base64_without_loss(site: Site) -> None:
    latin = 'print "caf\xe9";\r\n'.encode("latin-1")
    write(site.directory, "a.pl = done-job-self\n")
    (site.directory / "a.pl").write_bytes(latin)
    site.path_list(site.directory)
    (one,) = site.agent.lookup("done-job-self", code=True)["callbacks"]
    assert "code" not in one
    assert base64.b64decode(one["code_base64"]) == latin
    assert one["digest"] == "sha256:" + hashlib.sha256(latin).hexdigest()
    assert site.agent.status()["state"] == "ok"


@pytest.mark.parametrize("text", ["\ufeffx = 1\r\n", "x\0y", "", "\u2028\U0001f600"])
def test_code_is_the_files_text_as_it_is(site: Site, text: str) -> None:
    write(site.directory, "a.pl = done-job-self\n")
    (site.directory / "a.pl").write_bytes(text.encode())
    site.path_list(site.directory)
    (one,) = site.agent.lookup("done-job-self", code=True)["callbacks"]
    assert one["code"] == text


def test_order_is_the_directories_as_listed_then_the_lines(site: Site) -> None:
    conf = "b.py = done-job-self\na.py = done-job-self\n"
    two = write(site.folder / "a", conf, a_py="0\n", b_py="0\n")
    one = write(site.folder / "b", conf, a_py="0\n", b_py="0\n")
    site.path_list(one, two)
    expected = [f"{d}/{f}" for d in (one, two) for f in ("b.py", "a.py")]
    for answer in (site.agent.lookup("failed-job-self"), site.agent.call("list")):
        assert [c["path"] for c in answer["callbacks"]] == expected


def test_mail_needs_the_flag_mail_and_each_language_its_own(site: Site) -> None:
    names = ["a.py", "b.pl", "c.qcb", "d.qcb"]
    write(site.directory, "".join(f"{n} = done-job-self\n" for n in names), a_py="0\n", b_pl="0\n")
    (site.directory / "c.qcb").write_text("fail-self\n")
    (site.directory / "d.qcb").write_text("  mail-subjob-status \n")

    def enabled(flags: str) -> list[str]:
        record = site.path_list(site.directory, languages=f"supervisor_language_flags = {flags}\n")
        found = site.agent.lookup("done-job-self")
        off = {c["language"] for c in found["callbacks"] if not c["enabled"]}
        told = [d for d in record["diagnostics"] if d["code"] == "language-off"]
        assert len(told) == len(off)
        assert {d["severity"] for d in told} <= {"warning"}
        assert site.agent.status()["state"] == "ok"
        return [c["file"] for c in found["callbacks"] if c["enabled"]]

    assert enabled("qube,perl,python,mail") == names
    assert enabled("23") == names
    assert enabled("0x17") == names
    assert enabled("qube,post") == ["c.qcb"]
    assert enabled("mail") == []
    assert enabled('"mail, perl"') == ["b.pl"]
    assert enabled("0") == []
    assert enabled("") == ["c.qcb", "d.qcb"]


def test_missing_is_the_expression_without_its_true_parts(site: Site) -> None:
    a, b, c, d = (f"{n}-job-self" for n in ("a", "b", "c", "d"))
    site.serve(
        f"x.py = ({a} && {b}) || ({c} && {d})\ny.py = ({a} or {b}) and {c}\n",
        x_py="0\n",
        y_py="0\n",
    )
    answer = site.agent.lookup(a)
    assert answer["callbacks"] == []
    assert [(p["file"], p["missing"]) for p in answer["partial"]] == [
        ("x.py", f"{b} || ({c} && {d})"),
        ("y.py", c),
    ]
    # With what occurred before it is whole; without an event of its own it is nothing.
    assert site.agent.fires(c, occurred=[b]) == ["y.py"]
    assert site.agent.fires("e-job-self", occurred=[a, b, c, d]) == []


def test_explain_gives_a_verdict_for_each_callback_of_the_name_and_type(site: Site) -> None:
    site.serve(
        "a.py = done-job-self\nb.py = failed-job-self && x-job-self\nc.py = f*-job-9\n"
        "d.py = failed-work-self-*\ne.py = killed-job-self\n",
        **{f"{n}_py": "0\n" for n in "abcde"},
    )
    answer = site.agent.call("explain", ["failed-job-self"])  # type: ignore[arg-type]
    assert [(c["file"], c["verdict"]) for c in answer["callbacks"]] == [
        ("a.py", "fires"),
        ("b.py", "partial"),
        ("c.py", "no"),
    ]
    assert all(c["reason"] for c in answer["callbacks"])


def test_an_event_given_as_a_string_or_as_an_object(site: Site) -> None:
    site.serve(
        "a.py = failed-work-self-7\nb.py = failed-work-render-7\nc.py = failed-work-1234-7\n"
        "d.py = failed-work-parent-*\n",
        **{f"{n}_py": "0\n" for n in "abcd"},
    )
    job = {"id": 1234, "label": "render", "pid": 1200, "pgrp": 1200}
    event = {"name": "failed", "type": "work", "extra": "7", "job": job}
    fires = site.agent.fires
    assert fires("failed-work-self-7") == ["a.py"]
    assert fires("failed-work-render-7") == ["b.py"]
    assert fires("failed-work-01234-7") == ["c.py"]
    assert fires("failed-work-self-7", owner=job) == ["a.py", "c.py"]
    # Without an owner it is the event's own job.
    assert fires(event) == ["a.py", "b.py", "c.py"]
    assert fires(event, owner={"id": 9, "pid": 1234, "pgrp": 1200}) == ["b.py", "c.py", "d.py"]
    assert fires(event, owner={"id": 9, "pgrp": 1}) == ["c.py"]
    # An empty owner counts as given, and nothing in it matches.
    assert fires(event, owner={}) == ["c.py"]
    # The event's own job is self even without an id.
    assert fires({"name": "failed", "type": "work", "extra": "7", "job": {}}) == ["a.py"]
    # What is empty or null counts as not given; labels that pose are none.
    posing = {"id": 5, "label": "self", "pid": None, "pgrp": 1200}
    assert fires({**event, "job": posing}, owner=job) == []
    assert fires({**event, "job": {**job, "label": ""}}) == ["a.py", "c.py"]


def test_globals_are_asked_for_in_full(site: Site) -> None:
    site.serve("a.py = globaltime-10000\nb.py = x-global-self\n", a_py="0\n", b_py="0\n")
    assert [t for _, t, _ in site.served()] == ["*-globaltime-*-10000", "x-global-self"]
    assert site.agent.fires("dummy-globaltime-self-10000") == ["a.py"]
    assert site.agent.fires("x-global-self") == ["b.py"]
    with pytest.raises(client.Refused) as refused:
        site.agent.fires("globaltime-10000")
    assert refused.value.code == -32602


@pytest.mark.parametrize(
    "event",
    [
        *("done", "done-job", "done-job-", "-job-self", "done--self", "done-work-self", ""),
        *("done-x-self", "done-work-self-", "done-work-label", "done-job-self-", "done-*-self"),
        " done-job-self-",
    ],
)
def test_a_string_that_is_no_event_is_refused_with_a_column(agent: Agent, event: str) -> None:
    with pytest.raises(client.Refused) as refused:
        agent.lookup(event)
    assert refused.value.code == -32602
    data = refused.value.data
    assert data["pointer"] == "/params/event"
    assert data["expected"]
    assert 1 <= data["column"] <= len(event) + 1


def test_stars_operators_and_white_space_of_an_event_are_ordinary(site: Site) -> None:
    site.serve("a.py = done-job-lab*\nb.py = done-work-self-*\n", a_py="0\n", b_py="0\n")
    assert site.agent.fires("done-job-lab && el") == ["a.py"]
    assert site.agent.fires("done-job-*") == []
    assert site.agent.fires("done-work-self-*") == ["b.py"]
    assert site.agent.fires(" done-job-lab") == []


# The digest --------------------------------------------------------------------------------------


def test_two_agents_on_the_same_directories_report_the_same_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    directories = copied(tmp_path / "cb"), write(tmp_path / "dd", "a.py = x-job-1\n", a_py="0\n")
    for folder in (one, two):
        folder.mkdir()
    with running(one, *directories) as first:
        first.reload()
        # Another history, another host's stat, the same content.
        (directories[1] / "a.py").write_text("1\n")
        first.reload()
        (directories[1] / "a.py").write_text("0\n")
        first.reload()
        with running(two, *directories) as second:
            listed = first.call("list")
            assert second.call("list")["digest"] == listed["digest"]
            assert first.status()["digest"] == listed["digest"]
            assert first.status()["generation"] > second.status()["generation"] == 1
            assert second.call("list")["callbacks"] == listed["callbacks"]


def test_the_digest_names_every_field_and_their_order(site: Site) -> None:
    digests = set()
    one = write(
        site.folder / "one", "a.py = done-job-self\nb.py = x-job-1\n", a_py="0\n", b_py="0\n"
    )
    two = write(site.folder / "two", "a.py = done-job-self\n", a_py="0\n")
    empty = write(site.folder / "empty", "# nothing\n")
    digests.add(site.path_list(one, two)["digest"])
    # What has no callbacks has no part in it.
    assert site.path_list(empty, one, two)["digest"] in digests
    digests.add(site.path_list(two, one)["digest"])
    digests.add(site.path_list(one)["digest"])
    digests.add(site.path_list(one, languages="supervisor_language_flags = qube\n")["digest"])
    for conf in ("a.py = done-job-self\n\nb.py = x-job-1\n", "a.py = x-job-1\nb.py = x-job-1\n"):
        write(one, conf)
        digests.add(site.path_list(one)["digest"])
    assert len(digests) == 6


def test_nothing_of_an_answer_but_uptime_and_pid_is_of_the_moment(site: Site) -> None:
    site.serve("a.py = done-job-self\n", a_py="0\n")

    def answers() -> list[Any]:
        return [site.agent.call("list"), site.agent.lookup("done-job-self")]

    assert answers() == answers()
