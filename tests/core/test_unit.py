"""What a finding does: which unit is served after a reading, and why a directory is held.

The judgement is a plain function of what was read and what was accepted before, so its whole table
stands here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import languages as language
from agent.core import unit as callback
from agent.core.diagnostic import Finding, Severity
from agent.core.unit import (
    Absent,
    Implementation,
    Judgement,
    Plan,
    Reading,
    Unit,
    Unusable,
    judge,
    plan,
)

DIR = "/farm/callback"
CONF = f"{DIR}/callbacks.conf"
ONE = "a.py = done-job-self\n"
TWO = ONE + "b.py = failed-job-self\n"

GOOD = language.Verdict()
BAD = language.Verdict(language.Problem(Severity.WARNING, "does-not-compile", 3, 4, "it does not"))
WARNED = language.Verdict(
    None, (language.Problem(Severity.WARNING, "exits", 2, 1, "it ends the supervisor"),)
)

Found = Implementation | Absent | Unusable


def code(text: str, verdict: language.Verdict | None = None) -> Implementation:
    return replace(Implementation.of(text.encode()), verdict=verdict)


def reading(conf: str | None, held: str | None = None, /, **files: Found) -> Reading:
    """What was read; `a_py` is `a.py`. What is named and not given is absent."""
    named = {name.replace("_", "."): found for name, found in files.items()}
    said = None if conf is None else plan(conf.encode(), CONF)
    for file in said.files() if said else ():
        named.setdefault(file, Absent())
    return Reading(DIR, None, said, named, held)


def accepted(conf: str, **files: Found) -> Unit:
    unit = judge(reading(conf, **files), None).unit
    assert unit is not None
    return unit


def served(judgement: Judgement) -> list[tuple[str, str, bytes]]:
    unit = judgement.unit
    if unit is None:
        return []
    return [(r.file, r.text, unit.implementations[r.file].code) for r in unit.served()]


def codes(judgement: Judgement) -> list[tuple[str, str]]:
    return [(f.severity.value, f.code) for f in judgement.findings]


BEFORE = accepted(TWO, a_py=code("old a"), b_py=code("old b"))
OLD = [("a.py", "done-job-self", b"old a"), ("b.py", "failed-job-self", b"old b")]
NEW: dict[str, Found] = {"a_py": code("new a"), "b_py": code("new b")}


def test_what_is_well_is_accepted_whole() -> None:
    judgement = judge(reading(TWO, **NEW), BEFORE)
    assert (judgement.held, judgement.findings) == (None, ())
    assert served(judgement) == [
        ("a.py", "done-job-self", b"new a"),
        ("b.py", "failed-job-self", b"new b"),
    ]


# An error in a line, or in a file that was never served ------------------------------------------

BAD_LINES = [
    ("nonsense", "no-equals"),
    ("= done-job-self", "no-name"),
    ("sub/a.py = done-job-self", "bad-name"),
    ("sub\\a.py = done-job-self", "bad-name"),
    (".. = done-job-self", "bad-name"),
    (". = done-job-self", "bad-name"),
    ("a\0.py = done-job-self", "bad-name"),
    ("c.txt = done-job-self", "other-extension"),
    ("c.PY = done-job-self", "other-extension"),
    ("c = done-job-self", "other-extension"),
    ("a.py = done-jbo-self", "unknown-type"),
    ("a.py = done-Job-self", "unknown-type"),
    ("a.py = (done-job-self", "trigger-syntax"),
    ("a.py =", "empty-trigger"),
    ("a.py = done--self", "empty-field"),
    ("a.py = link-done-job-7", "dependency-syntax"),
    ('a.py = "done-job-self', "unclosed-quote"),
    ("a.py = {done-job-self}", "brace-value"),
    ('"a.py" = done-job-self', "quoted-name"),
    ("c.py = done-job-self", "missing-file"),
]


@pytest.mark.parametrize(("line", "code_of_it"), BAD_LINES)
def test_a_line_with_an_error_holds_the_unit(line: str, code_of_it: str) -> None:
    judgement = judge(reading(f"{TWO}  {line}\n", **NEW), BEFORE)
    assert judgement.held == "error"
    assert served(judgement) == OLD
    assert codes(judgement) == [("error", code_of_it)]
    (finding,) = judgement.findings
    assert (finding.path, finding.line) == (CONF, 3)
    assert finding.column is not None
    assert finding.column > 2


@pytest.mark.parametrize(("line", "code_of_it"), BAD_LINES)
def test_at_the_first_reading_the_lines_without_an_error_are_served(
    line: str, code_of_it: str
) -> None:
    judgement = judge(reading(f"{line}\n{TWO}", **NEW), None)
    assert judgement.held == "error"
    assert [s[2] for s in served(judgement)] == [b"new a", b"new b"]
    # What is served is what counts as accepted, and the line that never was is no part of it.
    assert judgement.unit is not None
    assert judgement.unit.files() == {"a.py", "b.py"}
    # The same again changes nothing.
    again = judge(reading(f"{line}\n{TWO}", **NEW), judgement.unit)
    assert (again.unit, again.held) == (judgement.unit, "error")
    assert codes(again) == codes(judgement) == [("error", code_of_it)]


def test_bytes_that_are_not_utf_8_hold_outside_of_comments_only() -> None:
    for text, held in ((b"a.py = done-job-\xff\n", "error"), (ONE.encode() + b"#\xff\n", None)):
        said = plan(text, CONF)
        read = Reading(DIR, None, said, {"a.py": code("new a")})
        assert judge(read, BEFORE).held == held


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (Unusable("not-a-regular-file", "it is a folder"), "error"),
        (Unusable("unreadable", "may not"), "error"),
        (Unusable("too-big", "5 MB"), "error"),
        (Unusable("dangling-link", "leads nowhere", None, callback.FAULT), "fault"),
        (Unusable("unreadable", "EIO", None, callback.FAULT), "fault"),
    ],
)
def test_a_file_that_cannot_be_served_holds(found: Unusable, held: str) -> None:
    for file in ("a_py", "b_py"):
        files = {**NEW, file: found}
        judgement = judge(reading(TWO, **files), BEFORE)
        assert (judgement.held, served(judgement)) == (held, OLD)
        assert codes(judgement) == [("error", found.code)]
    judgement = judge(reading(TWO, a_py=code("new a"), b_py=found), None)
    assert judgement.held == held
    assert [s[0] for s in served(judgement)] == ["a.py"]


def test_a_fault_of_one_file_is_a_fault_whatever_else_is_wrong() -> None:
    fault = Unusable("unreadable", "EIO", None, callback.FAULT)
    for conf in ("a.py = done-job-self\nnonsense\n", "nonsense\na.py = done-job-self\n"):
        assert judge(reading(conf, a_py=fault), BEFORE).held == "fault"


# Python ------------------------------------------------------------------------------------------


def test_python_that_compiled_before_and_does_not_now_holds() -> None:
    before = accepted(TWO, a_py=code("old a", GOOD), b_py=code("old b", GOOD))
    judgement = judge(reading(TWO, a_py=code("new a", BAD), b_py=code("new b", GOOD)), before)
    assert (judgement.held, served(judgement)) == ("error", OLD)
    (finding,) = judgement.findings
    assert (finding.severity, finding.path) == (Severity.ERROR, f"{DIR}/a.py")
    assert (finding.line, finding.column) == (3, 4)


@pytest.mark.parametrize("verdict", [BAD, None])
def test_python_that_never_compiled_is_served_with_a_warning(
    verdict: language.Verdict | None,
) -> None:
    before = accepted(ONE, a_py=code("old a", verdict))
    judgement = judge(reading(ONE, a_py=code("new a", BAD)), before)
    assert (judgement.held, codes(judgement)) == (None, [("warning", "does-not-compile")])
    assert served(judgement) == [("a.py", "done-job-self", b"new a")]
    assert judge(reading(ONE, a_py=code("new a", BAD)), None).held is None


def test_warnings_of_the_code_do_not_hold() -> None:
    conf = "a.py = done-job-self\nq.qcb = done-job-self\n"
    judgement = judge(reading(conf, a_py=code("a", WARNED), q_qcb=code("no-such-code")), None)
    assert judgement.held is None
    assert codes(judgement) == [("warning", "exits"), ("warning", "unknown-code")]
    assert [f.path for f in judgement.findings] == [f"{DIR}/a.py", f"{DIR}/q.qcb"]
    assert [s[0] for s in served(judgement)] == ["a.py", "q.qcb"]


@pytest.mark.parametrize(
    ("line", "code_of_it"),
    [
        ("a.py = done-work-self", "never-fires"),
        ("a.py = Done-job-self", "name-case"),
        ("a.py = complte-job-self", "unknown-name"),
        ("a.py = done-work-self-\\*", "escaped-star"),
        ("a.py = done-job-o'neill", "single-quote"),
    ],
)
def test_a_warning_of_a_line_does_not_hold(line: str, code_of_it: str) -> None:
    judgement = judge(reading(line + "\n", a_py=code("new a")), BEFORE)
    assert (judgement.held, codes(judgement)) == (None, [("warning", code_of_it)])
    assert len(served(judgement)) == 1


def test_the_same_file_and_trigger_twice_is_the_first_with_a_warning() -> None:
    conf = "a.py = a-job-1 or b-job-1\nb.py = x-job-1\na.py = (a-job-1) || b-job-1\n"
    judgement = judge(reading(conf, **NEW), None)
    (finding,) = judgement.findings
    assert (finding.severity, finding.code, finding.line) == (
        Severity.WARNING,
        "duplicate-line",
        3,
    )
    assert judgement.unit is not None
    assert [r.line for r in judgement.unit.served()] == [1, 2]


# Removals, faults, and what is held for a writer --------------------------------------------------


def test_a_removed_implementation_goes_and_the_rest_is_accepted() -> None:
    judgement = judge(reading(TWO, b_py=code("new b")), BEFORE)
    assert (judgement.held, codes(judgement)) == (None, [("error", "removed")])
    assert [s[2] for s in served(judgement)] == [b"new b"]
    # Its line is remembered: later edits and restarts judge it the same way.
    again = judge(reading(TWO + "a.py = x-job-1\n", b_py=code("newer b")), judgement.unit)
    assert (again.held, codes(again)) == (None, [("error", "removed")] * 2)
    back = judge(reading(TWO, **NEW), again.unit)
    assert (back.held, back.findings) == (None, ())
    assert len(served(back)) == 2
    # Once the line is gone from the accepted unit, the file was never served.
    without = judge(reading(ONE, a_py=code("new a")), BEFORE)
    assert codes(judge(reading(TWO, a_py=code("new a")), without.unit)) == [
        ("error", "missing-file")
    ]


@pytest.mark.parametrize("conf", [TWO + "nonsense\n", "b.py = nonsense\n", "nonsense\n"])
def test_a_removed_implementation_goes_even_while_the_unit_is_held(conf: str) -> None:
    judgement = judge(reading(conf, a_py=Absent(), b_py=code("new b")), BEFORE)
    assert judgement.held == "error"
    assert served(judgement) == OLD[1:]
    assert ("error", "removed") in codes(judgement)
    # Put back while it is still held, it stays off: the edit that would bring it is not accepted.
    again = judge(reading(conf, **NEW), judgement.unit)
    assert (again.held, served(again)) == ("error", OLD[1:])


def test_a_removed_implementation_goes_while_somebody_writes() -> None:
    judgement = judge(reading(None, "being-written", a_py=Absent()), BEFORE)
    assert (judgement.held, served(judgement)) == ("being-written", OLD[1:])


def test_a_unit_that_is_being_written_stays_as_it_was() -> None:
    judgement = judge(reading(None, "being-written", **NEW), BEFORE)
    assert (judgement.held, served(judgement)) == ("being-written", OLD)
    assert judge(reading(None, "being-written"), None).unit is None


def test_without_a_conf_nothing_is_served() -> None:
    for before in (BEFORE, None):
        judgement = judge(reading(None), before)
        assert (judgement.held, served(judgement)) == (None, [])
        assert codes(judgement) == [("error", "no-conf")]
        (finding,) = judgement.findings
        assert (finding.path, finding.line, finding.column) == (CONF, None, None)


def test_a_fault_of_the_directory_changes_nothing() -> None:
    fault = Finding(Severity.ERROR, "missing", DIR, None, None, "there is no directory")
    for before in (BEFORE, None):
        judgement = judge(Reading(DIR, fault), before)
        assert judgement == Judgement(before, "fault", (fault,))


def test_an_empty_conf_serves_nothing() -> None:
    for nothing_before in (None, Unit()):
        assert judge(reading(""), nothing_before) == Judgement(Unit(), None, ())
    # A comment says that it is meant so.
    assert judge(reading("# none\n"), BEFORE) == Judgement(Unit(), None, ())


def test_a_conf_that_was_emptied_is_a_warning_until_it_has_text() -> None:
    judgement = judge(reading(""), BEFORE)
    assert (judgement.held, served(judgement)) == (None, [])
    assert codes(judgement) == [("warning", "empty-conf")]
    assert codes(judge(reading(""), judgement.unit)) == [("warning", "empty-conf")]
    assert codes(judge(reading(None), judgement.unit)) == [("error", "no-conf")]
    after = judge(reading("# none\n"), judgement.unit)
    assert (after.findings, judge(reading(""), after.unit).findings) == ((), ())


# What must hold of every judgement ---------------------------------------------------------------

LINES = st.sampled_from(
    [
        *("a.py = done-job-self", "a.py = x-job-1", "b.py = done-job-self", "c.qcb = done-job-1"),
        *(
            "nonsense",
            "a.py = nonsense",
            "# comment",
            "d.txt = done-job-self",
            "b.py = done-work-1",
        ),
    ]
)
FILES = st.sampled_from(
    [
        *(code("1", GOOD), code("2", BAD), code("3"), Absent(), Absent()),
        Unusable("unreadable", "may not"),
        Unusable("dangling-link", "leads nowhere", None, callback.FAULT),
    ]
)
READINGS = st.tuples(st.lists(LINES, max_size=5), FILES, FILES, FILES)


@given(st.lists(READINGS, min_size=1, max_size=6))
def test_no_step_serves_what_it_may_not(steps: list[tuple[list[str], Found, Found, Found]]) -> None:
    unit: Unit | None = None
    for lines, a, b, c in steps:
        files = {"a_py": a, "b_py": b, "c_qcb": c}
        read = reading("\n".join(lines), **files)
        judgement = judge(read, unit)
        now = served(judgement)
        errors = [f for f in judgement.findings if f.severity is Severity.ERROR]
        # Held without an error to tell of, or the other way round but for a removal, is a fault.
        assert (judgement.held is None) <= all(f.code == "removed" for f in errors)
        assert (judgement.held is not None) <= bool(errors)
        # What is gone is never served.
        gone = {f for f, found in read.files.items() if isinstance(found, Absent)}
        assert not gone & {s[0] for s in now}
        if judgement.held is not None and unit is not None:
            assert set(now) <= set(served(Judgement(unit, None, ())))
        # Judged again it is the same.
        again = judge(read, judgement.unit)
        assert (again.unit, again.held) == (judgement.unit, judgement.held)
        unit = judgement.unit


def test_a_plan_knows_again_what_an_earlier_one_parsed() -> None:
    first = plan(b"a.py = a-job-1 or b-job-1\nb.py = done-work-self\n", CONF)
    text = b"\nb.py = done-work-self\na.py = a-job-1 || b-job-1\n"
    assert plan(text, CONF, first) == plan(text, CONF)
    assert plan(text, CONF, first).findings


def test_limits_are_errors_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "MAX_CALLBACKS", 1)
    assert [f.code for f in plan(TWO.encode(), CONF).findings] == ["too-many-callbacks"]
    assert judge(reading(TWO, **NEW), BEFORE).held == "error"
    monkeypatch.setattr(callback, "MAX_CONF_LINES", 1)
    assert [f.code for f in plan(TWO.encode(), CONF).findings] == ["too-many-lines"]
    assert plan(TWO.encode(), CONF) == Plan(findings=plan(TWO.encode(), CONF).findings)


# Bounds of what is reported -----------------------------------------------------------------------


def test_an_error_is_never_hidden_behind_many_warnings() -> None:
    conf = (
        "".join(f"a.py = Done{n}x-job-self || Done-job-self\n" for n in range(500)) + "nonsense\n"
    )
    judgement = judge(reading(conf, **NEW), BEFORE)
    assert len(judgement.findings) == 101
    assert (judgement.held, "no-equals" in {f.code for f in judgement.findings}) == ("error", True)
    more = judgement.findings[-1]
    assert (more.code, more.severity) == ("more-findings", Severity.WARNING)
    conf += "nonsense\n" * 500
    more = judge(reading(conf, **NEW), BEFORE).findings[-1]
    assert (more.code, more.severity) == ("more-findings", Severity.ERROR)


def test_the_findings_of_many_files_are_bounded_too() -> None:
    names = [f"f{n}.qcb" for n in range(2000)]
    conf = "".join(f"{name} = done-job-self\n" for name in names)
    files: dict[str, Found] = {name: code("nothing-known") for name in names}
    judgement = judge(Reading(DIR, None, plan(conf.encode(), CONF), files), None)
    assert len(judgement.findings) == callback.MAX_DIRECTORY_FINDINGS + 1
    assert sum(f.count for f in judgement.findings) == 2000
    assert judgement.findings[-1].path == DIR
