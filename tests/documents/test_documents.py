"""The comparison of documents with real output finds a wrong line and passes a right one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.documents import ROOT, Comparison, bad_links, carry_out, differences, hold

linux = pytest.mark.skipif(sys.platform != "linux", reason="the examples were made on Linux")


@linux
def test_a_wrong_output_is_found() -> None:
    text = "```console\n$ echo one; echo two\none\n{}\n$ true\n```\n"
    assert differences(carry_out("x.md", text.format("two"))) == []
    assert differences(carry_out("x.md", text.format("..."))) == []
    (found,) = differences(carry_out("x.md", text.format("three")))
    assert found.startswith("x.md:2: $ echo one")
    assert len(differences(carry_out("x.md", text.replace("$ true\n", "three\n")))) == 1


@linux
def test_a_document_is_updated_on_demand_and_fails_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "x.md"
    page.write_text("```console\n$ echo 1\n1\n$ echo 2; \\\n> echo 3\nold\n$ true\nold\n```\nend\n")
    session = carry_out("x.md", page.read_text())
    before = page.read_text()
    with pytest.raises(AssertionError, match="old"):
        hold(page, session)
    assert page.read_text() == before
    monkeypatch.setenv("UPDATE_DOCUMENTS", "1")
    with pytest.raises(AssertionError, match="old"):
        hold(page, session)
    hold(page, carry_out("x.md", page.read_text()))
    assert page.read_text().startswith("```console\n$ echo 1\n1\n$ echo 2; \\\n> echo 3\n2\n3\n")


@linux
def test_a_process_that_a_document_leaves_running_is_reported_and_ended() -> None:
    started = carry_out("x.md", "```console\n$ sleep 1000 & echo $!\n...\n```\n")
    (pid,) = started.left
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


A, B, C = ("sha256:" + digit * 64 for digit in "abc")
THEN, NOW = "[Jan 02, 2020 10:00:00]", "[Feb 03, 2021 11:11:11]"


@pytest.mark.parametrize(
    ("said", "printed", "agree"),
    [
        (["x ..."], ["x y z"], True),
        (["x ... z"], ["x y z"], True),
        (["x ... z"], ["x y"], False),
        (["a", "...", "b"], ["a", "b"], True),
        (["a", "...", "b"], ["a", "x", "y", "b"], True),
        (["a", "...", "b"], ["a", "x", "y"], False),
        (["a..."], ["a", "b"], False),
        ([], ["a"], False),
        (["a"], [], False),
        (["a.c"], ["abc"], False),
        ([A], [B], True),
        ([A], [B[:-1]], False),
        ([A, A], [B, B], True),
        ([A, A], [B, C], False),
        ([A, B], [C, C], False),
        ([f"{THEN} h[1]: x (1 ms)"], [f"{NOW} q[2]: x (25 ms)"], True),
        ([f"{THEN} h[1]: x (1 ms)"], [f"{NOW} q[2]: x (25 s)"], False),
        ([f"{THEN} h[1]: x"], [f"{NOW} q: x"], False),
        ([f"{THEN} h[1]: x"], ["[Feb 3 11:11:11] q[2]: x"], False),
        ([f"{THEN} h[1]: 5[1]: x"], [f"{NOW} q[2]: 5[2]: x"], False),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 1, pid 7, up 3 s, 1 client"], True),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 2, pid 7, up 3 s, 1 client"], False),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 1, pid 7, up 3 s, 2 client"], False),
        (["generation 2, 3 callbacks"], ["generation 3, 3 callbacks"], False),
    ],
)  # fmt: skip
def test_what_agrees(said: list[str], printed: list[str], agree: bool) -> None:
    assert Comparison().agree(tuple(said), tuple(printed)) is agree


def test_a_meaning_holds_from_command_to_command() -> None:
    comparison = Comparison()
    assert comparison.agree((A,), (B,))
    assert not comparison.agree((A,), (C,))
    assert not comparison.agree((C,), (B,))
    assert comparison.agree((A,), (B,))


def test_links_that_lead_nowhere_are_found() -> None:
    text = "# One, two\n[a](#one-two) [b](#one) [c](LICENSE) [d](LICENCE) [e](LICENSE#x)\n"
    assert bad_links(ROOT / "x.md", text) == ["#one", "LICENCE", "LICENSE#x"]
