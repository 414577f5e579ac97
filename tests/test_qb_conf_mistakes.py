"""Mistakes in qb.conf that turn callbacks off, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.diagnostic import Problem
from agent.settings import Settings, read_qb_conf, resolve
from agent.settings.host import Host

HOST = Host("linux", 1000, "/home/qube", "/work")
QB_PATH = "supervisor_universal_callback_path"
QB_LANGUAGES = "supervisor_language_flags"


def settings(qb: str) -> Settings:
    return resolve({}, {}, qb.encode(), HOST)


def test_a_drive_and_a_url_are_no_two_directories() -> None:
    for path in ("Z:/callback", "file:///callback"):
        found = settings(qb=f"{QB_PATH} = {path}\n")
        missing = Problem("missing", "M", "create it").at(found.directories[0])
        assert found.with_source(missing).hint == "create it"


@pytest.mark.parametrize("end", [",", " \\", ", # mail"])
def test_a_value_that_goes_on_in_the_next_line(end: str) -> None:
    found = settings(qb=f"{QB_PATH} = /a{end}\n  /b\n/c\n")
    (finding,) = found.findings
    assert (finding.code, finding.line, finding.column) == ("unknown-setting", 2, 3)
    assert finding.hint == "write all of its value on line 1"
    assert "/b" not in found.directories


def test_a_plus_before_the_equals_does_not_add_to_the_default() -> None:
    (finding,) = settings(qb=f"{QB_LANGUAGES} += python\n").findings
    assert finding.code == "unknown-setting"
    values = "with all of its values: they replace the default"
    assert finding.hint == f"write {QB_LANGUAGES} = {values}"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.encode("utf-16"), "it is not UTF-8 but UTF-16"),
        (lambda text: bytes(len(text)), "holds NUL bytes only"),
        (lambda text: text.replace("\n", "\r").encode(), "its lines end with CR alone"),
    ],
)
def test_a_qb_conf_of_which_no_line_can_be_read(
    change: Callable[[str], bytes], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "qb.conf"
    path.write_bytes(change(f"{QB_PATH} = /a\n{QB_LANGUAGES} = perl\n"))
    (finding,) = resolve({}, {}, read_qb_conf(str(path)), HOST).findings
    assert finding.code == "qb-conf-unreadable"
    assert why in finding.message
