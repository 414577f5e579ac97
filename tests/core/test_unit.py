"""What a diagnostic does: which unit is served after a reading, and why a directory is held.

`evaluate` is a pure function of a reading and the accepted unit, so its whole table is tested here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import languages
from agent.core.diagnostic import Diagnostic, Problem, Severity
from agent.core.planning import plan
from agent.core.unit import (
    FAULT,
    MAX_CONF_LINES,
    MAX_DIRECTORY_FINDINGS,
    Absent,
    Evaluation,
    Implementation,
    Plan,
    Reading,
    Unit,
    Unusable,
    evaluate,
)

DIR = "/farm/callback"
CONF = f"{DIR}/callbacks.conf"
ONE = "a.py = done-job-self\n"
TWO = ONE + "b.py = failed-job-self\n"

GOOD = languages.Verdict()
BAD = languages.Verdict(Problem("does-not-compile", "it does not", None, 3, 4))
WARNED = languages.Verdict(None, (Problem("exits", "it ends the supervisor", None, 2, 1),))

Found = Implementation | Absent | Unusable


def code(text: str, verdict: languages.Verdict | None = None) -> Implementation:
    return replace(Implementation.of(text.encode()), verdict=verdict)


def reading(conf: str | None, held: str | None = None, /, **files: Found) -> Reading:
    """A reading; `a_py` is `a.py`. A file that is named and not given is absent."""
    named = {name.replace("_", "."): found for name, found in files.items()}
    said = None if conf is None else plan(conf.encode(), CONF)
    for file in said.files() if said else ():
        named.setdefault(file, Absent())
    return Reading(DIR, None, said, named, held)


def accepted(conf: str, **files: Found) -> Unit:
    unit = evaluate(reading(conf, **files), None).unit
    assert unit is not None
    return unit


def served(evaluation: Evaluation) -> list[tuple[str, str, bytes]]:
    unit = evaluation.unit
    if unit is None:
        return []
    return [(r.file, r.text, unit.implementations[r.file].code) for r in unit.served()]


def codes(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [(f.severity.value, f.code) for f in evaluation.findings]


BEFORE = accepted(TWO, a_py=code("old a"), b_py=code("old b"))
OLD = [("a.py", "done-job-self", b"old a"), ("b.py", "failed-job-self", b"old b")]
NEW: dict[str, Found] = {"a_py": code("new a"), "b_py": code("new b")}


def test_what_is_well_is_accepted_whole() -> None:
    evaluation = evaluate(reading(TWO, **NEW), BEFORE)
    assert (evaluation.held, evaluation.findings) == (None, ())
    assert served(evaluation) == [
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
    evaluation = evaluate(reading(f"{TWO}  {line}\n", **NEW), BEFORE)
    assert evaluation.held == "error"
    assert served(evaluation) == OLD
    assert codes(evaluation) == [("error", code_of_it)]
    (finding,) = evaluation.findings
    assert (finding.path, finding.line) == (CONF, 3)
    assert finding.column is not None
    assert finding.column > 2


@pytest.mark.parametrize(("line", "code_of_it"), BAD_LINES)
def test_at_the_first_reading_the_lines_without_an_error_are_served(
    line: str, code_of_it: str
) -> None:
    evaluation = evaluate(reading(f"{line}\n{TWO}", **NEW), None)
    assert evaluation.held == "error"
    assert [s[2] for s in served(evaluation)] == [b"new a", b"new b"]
    # The accepted unit has the served lines only.
    assert evaluation.unit is not None
    assert evaluation.unit.files() == {"a.py", "b.py"}
    # The same reading again changes nothing.
    again = evaluate(reading(f"{line}\n{TWO}", **NEW), evaluation.unit)
    assert (again.unit, again.held) == (evaluation.unit, "error")
    assert codes(again) == codes(evaluation) == [("error", code_of_it)]


def test_bytes_that_are_not_utf_8_hold_outside_of_comments_only() -> None:
    for text, held in ((b"a.py = done-job-\xff\n", "error"), (ONE.encode() + b"#\xff\n", None)):
        said = plan(text, CONF)
        read = Reading(DIR, None, said, {"a.py": code("new a")})
        assert evaluate(read, BEFORE).held == held


@pytest.mark.parametrize(
    ("found", "held"),
    [
        (Unusable(Problem("not-a-regular-file", "it is a folder")), "error"),
        (Unusable(Problem("unreadable", "may not")), "error"),
        (Unusable(Problem("too-big", "5 MB")), "error"),
        (Unusable(Problem("dangling-link", "leads nowhere"), FAULT), "fault"),
        (Unusable(Problem("unreadable", "EIO"), FAULT), "fault"),
    ],
)
def test_a_file_that_cannot_be_served_holds(found: Unusable, held: str) -> None:
    for file in ("a_py", "b_py"):
        files = {**NEW, file: found}
        evaluation = evaluate(reading(TWO, **files), BEFORE)
        assert (evaluation.held, served(evaluation)) == (held, OLD)
        assert codes(evaluation) == [("error", found.problem.code)]
    evaluation = evaluate(reading(TWO, a_py=code("new a"), b_py=found), None)
    assert evaluation.held == held
    assert [s[0] for s in served(evaluation)] == ["a.py"]


def test_a_fault_of_one_file_is_a_fault_whatever_else_is_wrong() -> None:
    fault = Unusable(Problem("unreadable", "EIO"), FAULT)
    for conf in ("a.py = done-job-self\nnonsense\n", "nonsense\na.py = done-job-self\n"):
        assert evaluate(reading(conf, a_py=fault), BEFORE).held == "fault"


# Python ------------------------------------------------------------------------------------------


def test_python_that_compiled_before_and_does_not_now_holds() -> None:
    before = accepted(TWO, a_py=code("old a", GOOD), b_py=code("old b", GOOD))
    evaluation = evaluate(reading(TWO, a_py=code("new a", BAD), b_py=code("new b", GOOD)), before)
    assert (evaluation.held, served(evaluation)) == ("error", OLD)
    (finding,) = evaluation.findings
    assert (finding.severity, finding.path) == (Severity.ERROR, f"{DIR}/a.py")
    assert (finding.line, finding.column) == (3, 4)


@pytest.mark.parametrize("verdict", [BAD, None])
def test_python_that_never_compiled_is_served_with_a_warning(
    verdict: languages.Verdict | None,
) -> None:
    before = accepted(ONE, a_py=code("old a", verdict))
    evaluation = evaluate(reading(ONE, a_py=code("new a", BAD)), before)
    assert (evaluation.held, codes(evaluation)) == (None, [("warning", "does-not-compile")])
    assert served(evaluation) == [("a.py", "done-job-self", b"new a")]
    assert evaluate(reading(ONE, a_py=code("new a", BAD)), None).held is None


def test_warnings_of_the_code_do_not_hold() -> None:
    conf = "a.py = done-job-self\nq.qcb = done-job-self\n"
    evaluation = evaluate(reading(conf, a_py=code("a", WARNED), q_qcb=code("no-such-code")), None)
    assert evaluation.held is None
    assert codes(evaluation) == [("warning", "exits"), ("warning", "unknown-code")]
    assert [f.path for f in evaluation.findings] == [f"{DIR}/a.py", f"{DIR}/q.qcb"]
    assert [s[0] for s in served(evaluation)] == ["a.py", "q.qcb"]


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
    evaluation = evaluate(reading(line + "\n", a_py=code("new a")), BEFORE)
    assert (evaluation.held, codes(evaluation)) == (None, [("warning", code_of_it)])
    assert len(served(evaluation)) == 1


@pytest.mark.parametrize(
    ("line", "corrected"),
    [
        ("a.py = a-job-1 or b-job-1 AND c-job-1", "a.py = a-job-1 || b-job-1 && c-job-1"),
        ('a.py="(a-job-1)or(b-job-or)"  # or', 'a.py="(a-job-1)||(b-job-or)"  # or'),
        ("a.py = faild-job-self or a-job-7", "a.py = failed-job-self || a-job-7"),
    ],
)
def test_words_as_operators_give_the_line_to_write(line: str, corrected: str) -> None:
    found = plan(f"{line}\n".encode(), CONF).findings
    assert [(f.code, f.hint) for f in found if f.code == "word-operator"] == [
        ("word-operator", f"write: {corrected}")
    ]
    assert plan(f"{corrected}\n".encode(), CONF).findings == ()


def test_the_same_file_and_trigger_twice_is_the_first_with_a_warning() -> None:
    conf = "a.py = a-job-1||b-job-1\nb.py = x-job-1\na.py = (a-job-1) || b-job-1\n"
    evaluation = evaluate(reading(conf, **NEW), None)
    (finding,) = evaluation.findings
    assert (finding.severity, finding.code, finding.line) == (
        Severity.WARNING,
        "duplicate-line",
        3,
    )
    assert evaluation.unit is not None
    assert [r.line for r in evaluation.unit.served()] == [1, 2]


# Removals, faults, and directories held for a writer ---------------------------------------------


def test_a_removed_implementation_goes_and_the_rest_is_accepted() -> None:
    evaluation = evaluate(reading(TWO, b_py=code("new b")), BEFORE)
    assert (evaluation.held, codes(evaluation)) == (None, [("error", "removed")])
    assert [s[2] for s in served(evaluation)] == [b"new b"]
    # Its line is remembered: later edits and restarts evaluate it the same way.
    again = evaluate(reading(TWO + "a.py = x-job-1\n", b_py=code("newer b")), evaluation.unit)
    assert (again.held, codes(again)) == (None, [("error", "removed")] * 2)
    back = evaluate(reading(TWO, **NEW), again.unit)
    assert (back.held, back.findings) == (None, ())
    assert len(served(back)) == 2
    # Once the line is gone from the accepted unit, the file was never served.
    without = evaluate(reading(ONE, a_py=code("new a")), BEFORE)
    assert codes(evaluate(reading(TWO, a_py=code("new a")), without.unit)) == [
        ("error", "missing-file")
    ]


@pytest.mark.parametrize("conf", [TWO + "nonsense\n", "b.py = nonsense\n", "nonsense\n"])
def test_a_removed_implementation_goes_even_while_the_unit_is_held(conf: str) -> None:
    evaluation = evaluate(reading(conf, a_py=Absent(), b_py=code("new b")), BEFORE)
    assert evaluation.held == "error"
    assert served(evaluation) == OLD[1:]
    assert ("error", "removed") in codes(evaluation)
    # If it is put back while the unit is held it stays off: that edit is not accepted.
    again = evaluate(reading(conf, **NEW), evaluation.unit)
    assert (again.held, served(again)) == ("error", OLD[1:])


def test_a_removed_implementation_goes_while_somebody_writes() -> None:
    evaluation = evaluate(reading(None, "being-written", a_py=Absent()), BEFORE)
    assert (evaluation.held, served(evaluation)) == ("being-written", OLD[1:])


def test_a_unit_that_is_being_written_stays_as_it_was() -> None:
    evaluation = evaluate(reading(None, "being-written", **NEW), BEFORE)
    assert (evaluation.held, served(evaluation)) == ("being-written", OLD)
    assert evaluate(reading(None, "being-written"), None).unit is None


def test_without_a_conf_nothing_is_served() -> None:
    for before in (BEFORE, None):
        evaluation = evaluate(reading(None), before)
        assert (evaluation.held, served(evaluation)) == (None, [])
        assert codes(evaluation) == [("error", "no-conf")]
        (finding,) = evaluation.findings
        assert (finding.path, finding.line, finding.column) == (CONF, None, None)
        # A newcomer cannot put back what was never there.
        assert str(finding.hint).startswith(
            "put it back" if before else "create it, with a line for"
        )
        # The next look finds the same, so that it makes no record.
        assert evaluate(reading(None), evaluation.unit) == evaluation


def test_a_fault_of_the_directory_changes_nothing() -> None:
    fault = Diagnostic(Severity.ERROR, "missing", DIR, None, None, "there is no directory")
    for before in (BEFORE, None):
        evaluation = evaluate(Reading(DIR, fault), before)
        assert evaluation == Evaluation(before, "fault", (fault,))


def test_an_empty_conf_serves_nothing() -> None:
    for nothing_before in (None, Unit()):
        assert evaluate(reading(""), nothing_before) == Evaluation(Unit(), None, ())
    # A comment shows that it is intended.
    assert evaluate(reading("# none\n"), BEFORE) == Evaluation(Unit(), None, ())


def test_a_conf_that_was_emptied_is_a_warning_until_it_has_text() -> None:
    evaluation = evaluate(reading(""), BEFORE)
    assert (evaluation.held, served(evaluation)) == (None, [])
    assert codes(evaluation) == [("warning", "empty-conf")]
    assert codes(evaluate(reading(""), evaluation.unit)) == [("warning", "empty-conf")]
    assert codes(evaluate(reading(None), evaluation.unit)) == [("error", "no-conf")]
    after = evaluate(reading("# none\n"), evaluation.unit)
    assert (after.findings, evaluate(reading(""), after.unit).findings) == ((), ())


# What must hold of every evaluation ---------------------------------------------------------------

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
        Unusable(Problem("unreadable", "may not")),
        Unusable(Problem("dangling-link", "leads nowhere"), FAULT),
    ]
)
READINGS = st.tuples(st.lists(LINES, max_size=5), FILES, FILES, FILES)


@given(st.lists(READINGS, min_size=1, max_size=6))
def test_no_step_serves_what_it_may_not(steps: list[tuple[list[str], Found, Found, Found]]) -> None:
    unit: Unit | None = None
    for lines, a, b, c in steps:
        files = {"a_py": a, "b_py": b, "c_qcb": c}
        read = reading("\n".join(lines), **files)
        evaluation = evaluate(read, unit)
        now = served(evaluation)
        errors = [f for f in evaluation.findings if f.severity is Severity.ERROR]
        # Held exactly if there is an error, except that a removal is an error and not held.
        assert (evaluation.held is None) <= all(f.code == "removed" for f in errors)
        assert (evaluation.held is not None) <= bool(errors)
        # A removed file is never served.
        gone = {f for f, found in read.files.items() if isinstance(found, Absent)}
        assert not gone & {s[0] for s in now}
        if evaluation.held is not None and unit is not None:
            assert set(now) <= set(served(Evaluation(unit, None, ())))
        # Evaluated again it is the same.
        again = evaluate(read, evaluation.unit)
        assert (again.unit, again.held) == (evaluation.unit, evaluation.held)
        unit = evaluation.unit


def test_a_plan_knows_again_what_an_earlier_one_parsed() -> None:
    first = plan(b"a.py = a-job-1 or b-job-1\nb.py = done-work-self\n", CONF)
    text = b"\nb.py = done-work-self\na.py = a-job-1 || b-job-1\n"
    assert plan(text, CONF, first) == plan(text, CONF)
    assert plan(text, CONF, first).findings


def test_a_file_over_a_limit_is_not_read_at_all() -> None:
    text = TWO + "\n" * MAX_CONF_LINES
    found = plan(text.encode(), CONF)
    assert [f.code for f in found.findings] == ["too-many-lines"]
    assert found == Plan(findings=found.findings)
    assert evaluate(reading(text, **NEW), BEFORE).held == "error"


# Bounds of what is reported -----------------------------------------------------------------------


def test_an_error_is_never_hidden_behind_many_warnings() -> None:
    conf = (
        "".join(f"a.py = Done{n}x-job-self || Done-job-self\n" for n in range(500)) + "nonsense\n"
    )
    evaluation = evaluate(reading(conf, **NEW), BEFORE)
    assert len(evaluation.findings) == 101
    assert (evaluation.held, "no-equals" in {f.code for f in evaluation.findings}) == (
        "error",
        True,
    )
    more = evaluation.findings[-1]
    assert (more.code, more.severity) == ("more-findings", Severity.WARNING)
    conf += "nonsense\n" * 500
    more = evaluate(reading(conf, **NEW), BEFORE).findings[-1]
    assert (more.code, more.severity) == ("more-findings", Severity.ERROR)


def test_the_findings_of_many_files_are_bounded_too() -> None:
    names = [f"f{n}.qcb" for n in range(2000)]
    conf = "".join(f"{name} = done-job-self\n" for name in names)
    files: dict[str, Found] = {name: code("nothing-known") for name in names}
    evaluation = evaluate(Reading(DIR, None, plan(conf.encode(), CONF), files), None)
    assert len(evaluation.findings) == MAX_DIRECTORY_FINDINGS + 1
    assert sum(f.count for f in evaluation.findings) == 2000
    assert evaluation.findings[-1].path == DIR
