"""What a record says besides what is served: who, what else, what is new, and the diff."""

from __future__ import annotations

import os
import pwd
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.diagnostic import Diagnostic, Severity
from agent.core.index import ServedDirectory
from agent.core.planning import plan
from agent.core.unit import Implementation, Unit
from agent.reload import causes
from agent.reload.previous_findings import PreviousFindings
from support.sites import Site

FLAGS = frozenset({"qube", "mail"})
ONE = "a.qcb = done-job-self\n"
#: Warns of the single quote, in each line.
STANDING = "".join(f"a.qcb = done-job-'{n}'\n" for n in range(40))


def the_cause(record: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (c for c in record["causes"] if Path(c["path"]).name == name)
    return dict(found)


def test_a_cause_has_owner_time_and_size_as_the_file_was_read(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    conf = site.directory / "callbacks.conf"
    with site.at_once():
        conf.write_text(ONE + "a.qcb = x-job-self\n")
        os.utime(conf, ns=(0, 1_500_000_000_123_456_789))
    cause = the_cause(site.reload(), "callbacks.conf")
    status = conf.stat()
    assert cause == {
        "path": str(conf),
        "change": "modified",
        "owner": pwd.getpwuid(status.st_uid).pw_name,
        "mtime": "2017-07-14T02:40:00.123Z",
        "size": status.st_size,
    }
    (site.directory / "a.qcb").unlink()
    gone = the_cause(site.reload(), "a.qcb")
    assert gone == {"path": str(site.directory / "a.qcb"), "change": "removed"}
    if os.geteuid() == 0:
        with site.at_once():
            (site.directory / "a.qcb").write_text("block-self\n")
            os.chown(site.directory / "a.qcb", 54321, -1)
        assert the_cause(site.reload(), "a.qcb")["owner"] == "54321"
    site.path_list(site.directory)
    (settings,) = site.path_list(site.directory, site.folder)["causes"]
    read = datetime.fromisoformat(settings["mtime"]).timestamp()
    assert abs(read - site.agent.qb_conf.stat().st_mtime) < 0.01
    assert settings["size"] == site.agent.qb_conf.stat().st_size


def test_records_are_numbered_and_of_one_instance(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    site.edit(ONE, a_qcb="kill-self\n")
    history = site.agent.history()
    assert [r["sequence"] for r in history] == list(range(1, len(history) + 1))
    status = site.agent.status()
    assert {r["instance"] for r in history} == {status["instance"]}
    assert status["sequence"] == len(history)
    unchanged = site.agent.reload()
    assert (unchanged["sequence"], unchanged["changes"]) == (len(history), [])
    assert not any(d.get("new") for d in unchanged["diagnostics"])


def test_what_changed_of_a_callback(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    line = site.edit("# a comment\n" + ONE)
    both = site.edit(ONE, a_qcb="mail-status\n")
    languages = 'supervisor_language_flags = "qube"\n'
    off = site.path_list(site.directory, languages=languages)
    assert [c["what"] for r in (line, both, off) for c in r["changes"]] == [
        ["line"],
        ["digest", "line"],
        ["enabled"],
    ]
    added = site.edit(ONE + "a.qcb = x-job-self\n")["changes"]
    assert [c["change"] for c in added] == ["added"]
    assert "what" not in added[0]


def test_only_what_the_record_before_did_not_have_is_new(site: Site) -> None:
    first = site.serve(STANDING, a_qcb="block-self\n")
    assert [d.get("new") for d in first["diagnostics"]] == [True] * 40
    # They move to other lines, and one comes.
    second = site.edit("a.qcb = failed-job-self\na.qcb = done-job-'x'\n" + STANDING)
    new = [d["line"] for d in second["diagnostics"] if d.get("new")]
    assert (len(second["diagnostics"]), new) == (41, [2])


def test_the_diff_of_an_edit_is_there_also_if_it_is_refused(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    path = str(site.directory / "callbacks.conf")

    def diff(record: dict[str, Any]) -> list[str]:
        (found,) = record["conf_diff"]
        assert found["path"] == path
        return [line for line in found["diff"].splitlines()[2:] if line[0] in "+-"]

    # Each is compared with what is served, not with the one before.
    for wrong, new in (("one", [str(site.directory)]), ("two", [])):
        record = site.edit(f"{ONE}{wrong}\n")
        assert diff(record) == [f"+{wrong}"]
        assert record["newly_held"] == new
    restored = site.edit(ONE + "# a comment\n")
    assert (restored["event"], restored["restored"]) == ("restored", [str(site.directory)])
    assert diff(restored) == ["+# a comment"]
    # What was accepted last is what the next is compared with, comments too.
    assert diff(site.edit("a.qcb = x-job-self\n# a comment\n")) == [
        f"-{ONE[:-1]}",
        "+a.qcb = x-job-self",
    ]
    assert site.edit("a.qcb = x-job-self\n# a comment\n", a_qcb="kill-self\n")["conf_diff"] == []


def test_an_edit_that_is_taken_back_has_no_diff(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    assert site.edit("nonsense\n")["conf_diff"]
    restored = site.edit(ONE)
    assert (restored["event"], restored["conf_diff"]) == ("restored", [])
    assert the_cause(restored, "callbacks.conf")["change"] == "modified"


def test_bytes_that_are_not_utf_8_are_in_the_diff(site: Site) -> None:
    site.serve(ONE, a_qcb="block-self\n")
    (site.directory / "callbacks.conf").write_bytes(b"# caf\xe9\x1b\n" + ONE.encode())
    (found,) = site.reload()["conf_diff"]
    assert "+# caf\\xe9\x1b\n" in found["diff"]


FINDINGS = st.builds(
    Diagnostic,
    severity=st.sampled_from(list(Severity)),
    code=st.sampled_from(["a", "more-findings"]),
    path=st.sampled_from(["/a", "/b"]),
    line=st.integers(1, 3),
    column=st.just(1),
    message=st.sampled_from(["x", "as in line 1", "as in line 2"]),
)


@given(st.lists(FINDINGS, max_size=6), st.lists(FINDINGS, max_size=6))
def test_new_findings_of_any_two_records(before: list[Diagnostic], now: list[Diagnostic]) -> None:
    marks = [bool(d.new) for d in PreviousFindings(before).compared(now)]

    def kind(one: Diagnostic) -> tuple[str, ...]:
        alike = "" if one.code == "more-findings" else one.message.rstrip("12")
        return one.severity, one.code, one.path, alike

    # Of each kind, as many are new as there are more than before.
    new = Counter(kind(finding) for finding, is_new in zip(now, marks, strict=True) if is_new)
    assert new == Counter(map(kind, now)) - Counter(map(kind, before))
    assert not any(d.new for d in PreviousFindings(now).compared(reversed(now)))


@pytest.mark.parametrize("line", [1, 2])
def test_a_finding_that_moved_is_not_new(line: int) -> None:
    one = Diagnostic(Severity.WARNING, "x", "/a", line, 1, f"as in line {line}")
    other = Diagnostic(Severity.WARNING, "x", "/a", 3, 1, "as in line 9")
    assert [bool(d.new) for d in PreviousFindings([one]).compared([other, other])] == [False, True]


def test_lines_are_not_compared_where_callbacks_conf_is_known_to_be_edited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Comparing the lines of a large directory would delay each edit."""
    code = {"a.qcb": Implementation.of(b"block-self\n")}
    before, now = (
        ServedDirectory.of("/d", Unit(plan(conf, "/d/callbacks.conf").registrations, code), FLAGS)
        for conf in (b"a.qcb = done-job-self\n", b"a.qcb = failed-job-self\n")
    )
    compared = list[object]()
    monkeypatch.setattr(causes, "_line", compared.append)
    found = causes.derived(["/d/callbacks.conf"], {"/d": before}, {"/d": now}, {}, "/etc/qb.conf")
    assert (found, compared) == ([], [])
    causes.derived([], {"/d": before}, {"/d": now}, {}, "/etc/qb.conf")
    assert len(compared) == 2
