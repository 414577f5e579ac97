"""The registry of codes: each code is shown by a fixture, an example or a test.

That the source and the manual have the same codes is tested in `documents/test_manual_codes.py`.
"""

from __future__ import annotations

import re

import pytest

from agent import settings
from agent.core.diagnostic import CODES, Effect, Severity
from agent.settings.host import Host
from agent.settings.path_list import MAX_DIRECTORIES
from support.documents import MANUAL, ROOT

#: The test that shows a code which neither a fixture nor the example of its page shows.
SHOWN_BY = {
    "bad-path": "test_settings.py::test_a_path_that_answers_could_not_name_is_refused",
    "bad-settings": "reload/test_lost_settings.py::test_settings_that_cannot_be_used_are_an_error",
    "being-written": (
        "faults/test_being_written.py::test_the_finding_names_the_file_and_the_process"
    ),
    "check-budget": "faults/test_check_budget.py::test_a_directory_over_its_budget_is_held",
    "empty-conf": "core/test_unit.py::test_a_conf_that_was_emptied_is_a_warning_until_it_has_text",
    "internal-error": (
        "faults/test_contained.py::test_row_23_what_a_directory_raises_is_its_fault"
    ),
    "kept-damaged": "faults/test_rows_18_20.py::test_row_18_a_state_file_that_is_damaged",
    "more-findings": "core/test_unit.py::test_an_error_is_never_hidden_behind_many_warnings",
    "no-answer": "disk/test_stalls.py::test_nobody_waits_for_it_but_its_own_edits",
    "not-checked": "faults/test_check_not_known.py::test_no_helper_can_be_started",
    "not-utf-8": "core/test_conf.py::test_a_line_that_cannot_be_read_is_an_error_at_its_column",
    "out-of-resources": "faults/test_being_written.py::test_no_memory_is_a_fault_of_the_directory",
    "qb-conf-lost": "reload/test_lost_settings.py::test_a_qb_conf_that_is_gone_is_an_error",
    "removed": "core/test_unit.py::test_a_removed_implementation_goes_and_the_rest_is_accepted",
    "restart-needed": (
        "reload/test_qb_conf.py::test_one_record_says_that_a_supervisor_must_be_restarted"
    ),
    "too-long": "core/test_trigger.py::test_a_problem_has_a_code_a_column_and_a_hint",
    "too-many-callbacks": "disk/test_file_limits.py::test_callbacks_in_a_directory",
    "too-many-directories": "core/test_codes.py::test_too_many_directories_are_an_error",
    "unit-too-big": "faults/test_being_written.py::test_too_many_bytes_are_not_read",
    "unmounted": "faults/test_rows_10_13.py::test_row_12_unmounted",
    "unreadable": "core/test_unit.py::test_a_file_that_cannot_be_served_holds",
}


def pages() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in (MANUAL / "codes").glob("*.md")}


#: What the page of a code with this effect says of it.
EFFECTS = {
    Effect.HELD: r"\bheld\b",
    Effect.REMOVED: r"nothing is served|callbacks of this file are off",
    Effect.SETTINGS: r"the last settings stay",
    Effect.SERVED: r"none\b|ignored|read once|last value|taken|written again|is served|those",
}


@pytest.mark.parametrize("code", CODES)
def test_the_page_states_the_effect_of_the_registry(code: str) -> None:
    row = CODES[code]
    assert code in pages(), f"write agent/manual/codes/{code}.md"
    paragraph = " ".join(pages()[code].split("\n\n")[1].split())
    _, _, effect = paragraph.partition(". Effect: ")
    assert re.search(EFFECTS[row.effect], effect), (
        f"agent/manual/codes/{code}.md: for {row.effect}, the text after `Effect:` must match"
        f" {EFFECTS[row.effect]}"
    )


def test_every_code_is_shown_by_a_fixture_an_example_or_a_test() -> None:
    expected = (path.read_text() for path in (ROOT / "fixtures").rglob("EXPECTED"))
    shown = {code for text in expected for code in re.findall(r"\[([a-z0-9-]+)\]$", text, re.M)}
    shown |= {code for code, text in pages().items() if re.search(r"^```\w+ wrong\b", text, re.M)}
    assert sorted(CODES.keys() - shown - SHOWN_BY.keys()) == [], (
        "to show a code: a folder in fixtures/broken, or a block `wrong` in its page in"
        " agent/manual/codes, or a test named in SHOWN_BY of this file"
    )
    assert sorted(SHOWN_BY.keys() - CODES.keys()) == [], "remove it from SHOWN_BY of this file"
    for code, test in SHOWN_BY.items():
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert f"def {name}(" in text, f"SHOWN_BY of this file: there is no {test}"
        assert f'"{code}"' in text, f"tests/{file} does not name {code}"


def test_too_many_directories_are_an_error() -> None:
    paths = ",".join(f"/{n}" for n in range(MAX_DIRECTORIES + 1))
    data = f"supervisor_universal_callback_path = {paths}\n".encode()
    host = Host("linux", 1000, "/home/u", "/")
    (finding,) = settings.resolve({}, {}, data, host).findings
    assert (finding.code, finding.severity) == ("too-many-directories", Severity.ERROR)
