"""The manual is complete and true: its examples run, and every command, setting and limit is there.

How a document is written for this is described in `documents`.
"""

from __future__ import annotations

import pkgutil
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from agent import cli, manual, settings
from agent.cli import exits
from agent.client import NoAgent, Refused, TimedOut
from agent.rpc.messages import ERRORS
from agent.settings import path_list
from support.documents import (
    MANUAL,
    OPTIONAL,
    ROOT,
    Command,
    Program,
    bad_links,
    blocks,
    carry_out,
    hold,
    programs_not_run,
    prose,
    rows,
    section,
    steps,
)

pytestmark = pytest.mark.timeout(600)

#: The examples were made on Linux: events, leases, socat.
linux = pytest.mark.skipif(sys.platform != "linux", reason="the examples were made on Linux")

PAGES = sorted(MANUAL.glob("*.md"))
ALL_PAGES = [*PAGES, *sorted(MANUAL.glob("codes/*.md"))]
WITH_EXAMPLES = [page for page in PAGES if "```console" in page.read_text(encoding="utf-8")]


def text(topic: str) -> str:
    return (MANUAL / f"{topic}.md").read_text(encoding="utf-8")


def first_steps() -> list[Command]:
    """The README's commands that set up and start the agent: every page goes on from there."""
    found: list[Command] = []
    for step in steps((ROOT / "README.md").read_text(encoding="utf-8")):
        if isinstance(step, Command) and not re.match("callback-agent check|grep", step.text):
            found.append(step)
            if step.text.endswith("&"):
                return found
    raise AssertionError("the README does not start an agent")


#: What a page with examples says before the first of them: where its folder and agent come from.
GO_ON = """
The examples go on from [First steps](../../README.md#first-steps) in the
README: run those up to `callback-agent serve`, in the folder of the source.
"""


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.stem))
def test_a_page_says_where_its_examples_begin(page: Path) -> None:
    before, _, _ = page.read_text(encoding="utf-8").partition("```console")
    assert GO_ON in before, f"write it before the first example of {page}"


def test_the_supervisor_is_as_short_as_the_readme_says() -> None:
    program = next(
        step for step in steps(text("writing-a-supervisor")) if isinstance(step, Program)
    )
    lines = [line for line in program.text.splitlines() if line.strip()]
    stated = re.search(r"complete one in (\d+) lines", (ROOT / "README.md").read_text("utf-8"))
    assert stated
    assert len(lines) <= int(stated[1])


def test_the_supervisor_waits_if_its_connection_is_refused_and_not_if_its_event_is() -> None:
    source = re.search(r"^def ask\(.*?\n\n", text("writing-a-supervisor"), re.M | re.S)
    assert source
    errors = [Refused(-32000, "too many connections"), Refused(-32602, "wrong", index=0)]

    class Agent:
        def lookup(self, *_: object, **__: object) -> None:
            raise errors.pop(0)

    names: dict[str, Any] = {
        "NoAgent": NoAgent,
        "TimedOut": TimedOut,
        "Refused": Refused,
        "jobs": [],
    }
    names["time"] = SimpleNamespace(sleep=lambda _: None)
    exec(source[0], names)  # noqa: S102
    with pytest.raises(Refused, match="wrong"):
        names["ask"](Agent(), "failed-job-self")
    assert errors == []


@linux
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.stem))
def test_every_command_prints_what_the_page_says(page: Path) -> None:
    document = page.read_text(encoding="utf-8")
    for tool in OPTIONAL:
        if re.search(rf"^[$>] +{tool} ", document, re.MULTILINE) and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    session = carry_out(page.name, document, first_steps())
    assert session.runs
    hold(page, session)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_every_program_is_run(page: Path) -> None:
    assert programs_not_run(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.stem))
def test_links_lead_somewhere(page: Path) -> None:
    assert bad_links(page) == []


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.stem))
def test_a_page_fits_a_terminal(page: Path) -> None:
    """Prose is at most 80 columns; only code and tables may be wider."""
    lines = prose(page.read_text(encoding="utf-8")).splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("|")] == []
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.stem))
def test_a_page_on_a_terminal_has_no_markup(page: Path) -> None:
    lines = manual.rendered(page.read_text(encoding="utf-8")).splitlines()
    prose = [re.sub("`[^`]*`", "", line) for line in lines if not line.startswith("    ")]
    assert [line for line in prose if re.search(r"\*\*|\*\w[^*]*\*", line)] == []
    assert [line for line in lines if "](" in line or "```" in line] == []


def test_emphasis_and_indented_code_are_rendered() -> None:
    page = "# t\n\nIt is *held*, by **all `x`**; `a-*` and `b-*` stay.\n\n    one  *two*\n    3\n"
    assert manual.rendered(page) == (
        "t\n\nIt is held, by all `x`; `a-*` and `b-*` stay.\n\n    one  *two*\n    3\n"
    )


def test_a_table_in_a_page_has_the_same_number_of_cells_in_every_row() -> None:
    for page in ALL_PAGES:
        tables = re.split(r"\n(?!\|)", prose(page.read_text(encoding="utf-8")))
        for table in tables:
            assert len({len(row) for row in rows(table)}) <= 1, (page.name, table)


# -- nothing is left out --------------------------------------------------------------------------


def commands() -> Mapping[str, click.Command]:
    context = click.Context(cli.commands)
    found = {name: cli.commands.get_command(context, name) for name in cli._COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def test_every_command_has_a_section() -> None:
    headings = re.findall(r"^## (\w+)$", text("commands"), re.MULTILINE)
    assert sorted(headings) == sorted(commands()), "the sections of agent/manual/commands.md"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_of_a_command_is_described(name: str) -> None:
    about = re.search(rf"^## {name}\b.*?(?=^## |\Z)", text("commands"), re.M | re.DOTALL)
    assert about, f"agent/manual/commands.md has no section {name}"
    told = about[0] + text("settings")
    command = commands()[name]
    of_group = command.commands.values() if isinstance(command, click.Group) else ()
    for parameter in [one for each in (command, *of_group) for one in each.params]:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert re.search(rf"`[^`]*(?<![\w-]){option}(?![\w-])", told), (
                    f"describe {option} in section {name} of agent/manual/commands.md, or in"
                    " agent/manual/settings.md"
                )


def test_the_exit_statuses_of_a_command_are_described() -> None:
    common = section(text("commands"), "Exit statuses")
    for status in (exits.USAGE, exits.NO_AGENT, exits.NO_OUTPUT):
        assert f"| {status} |" in common


def test_every_setting_is_described() -> None:
    page = text("settings")
    for row in settings.TABLE.values():
        if row.flag:
            file = "agent/manual/settings.md"
            assert re.search(rf"`{row.flag}[ `]", page), f"describe {row.flag} in {file}"
            assert f"`{row.variable}`" in page, f"describe {row.variable} in {file}"
    for key in (path_list.QB_PATH, path_list.QB_LANGUAGES, path_list.QB_DIRECTORY):
        assert f"`{key}`" in page, f"describe {key} in agent/manual/settings.md"


def test_every_topic_is_in_the_readme_and_the_other_way_round() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(agent/manual/([\w-]+)\.md\)", section(readme, "Manual"))
    assert sorted(linked) == sorted(manual.topics()), (
        "the table of the manual's pages in README.md must have each page of agent/manual once"
    )


UNITS = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


#: The constant of the code that each row of limits.md states.
LIMITS = {
    "callbacks.conf": "core.unit.MAX_CONF_BYTES",
    "lines of callbacks.conf": "core.unit.MAX_CONF_LINES",
    "callbacks in one directory": "core.unit.MAX_CALLBACKS",
    "one implementation": "core.unit.MAX_CODE_BYTES",
    "length of a trigger": "core.trigger.MAX_LENGTH",
    "parentheses inside each other": "core.trigger.MAX_NESTING",
    "findings for one file": "core.diagnostic.MAX_FINDINGS",
    "findings for one directory": "core.unit.MAX_DIRECTORY_FINDINGS",
    "line of callbacks.conf": "core.conf.MAX_LINE",
    "path of a callback directory": "settings.path_list.MAX_PATH",
    "one directory with its files": "disk.files.MAX_UNIT_BYTES",
    "all directories together": "disk.files.MAX_TOTAL_BYTES",
    "directories": "settings.path_list.MAX_DIRECTORIES",
    "check of one Python file, processor time": "timing.DEFAULTS.checks.max_cpu",
    "check of one Python file, memory": "timing.DEFAULTS.checks.max_memory",
    "checks of one directory, processor time": "timing.DEFAULTS.checks.budget",
    "qb.conf": "settings.MAX_QB_CONF_BYTES",
    "one request": "rpc.lines.MAX_LINE",
    "nesting of a request": "rpc.jsonrpc.MAX_DEPTH",
    "requests in a batch": "rpc.jsonrpc.MAX_BATCH",
    "connections": "timing.DEFAULTS.pipe.max_connections",
    "time for one request to arrive": "timing.DEFAULTS.pipe.max_line_seconds",
    "time for the line feed after a whole request": "server.connection.LINE_FEED_SECONDS",
    "answers of a batch": "timing.DEFAULTS.pipe.max_batch_bytes",
    "unread answers of one client": "server.shared.MAX_UNREAD",
    "unread notifications of one subscriber": "timing.DEFAULTS.pipe.max_unread_notifications",
    "unread answers of all clients": "timing.DEFAULTS.pipe.max_held_bytes",
    "one result": "timing.DEFAULTS.pipe.max_result_bytes",
    "time for one request": "timing.DEFAULTS.pipe.max_work_seconds",
    "one call of the Python client": "client.DEFAULT_TIMEOUT",
    "answer for the Python client": "client.MAX_ANSWER_BYTES",
    "records in `history`": "reload.log.MAX_HISTORY",
    "shortest interval of heartbeats": "rpc.messages.MIN_HEARTBEAT",
    "longest interval of heartbeats": "rpc.messages.MAX_HEARTBEAT",
    "free file descriptors needed at the start": "daemon.descriptors.MIN_DESCRIPTORS",
    "waiting records of a log that cannot be written": "reload.log.MAX_WAITING",
    "their size": "reload.log.MAX_WAITING_BYTES",
    "waiting messages for standard error": "daemon.messages.MAX_WAITING",
}


def test_every_limit_is_that_of_the_code() -> None:
    table = {row[0]: row[1] for row in rows(text("limits")) if row[0] in LIMITS}
    assert table.keys() == LIMITS.keys(), "a row of LIMITS here is not in agent/manual/limits.md"
    for row, constant in LIMITS.items():
        value = pkgutil.resolve_name(f"agent.{constant}")
        number, _, unit = table[row].partition(" ")
        stated = float(number.replace(",", "")) * UNITS.get(unit, 1)
        assert stated == pytest.approx(value), f"agent/manual/limits.md, {row}: it is {value}"


def test_every_error_of_the_pipe_is_described() -> None:
    codes = set(map(str, ERRORS))
    described = {row[0] for row in rows(text("pipe")) if row[0].startswith("-3")}
    assert codes == described, "the table of errors in agent/manual/pipe.md"


def test_every_block_of_a_page_is_run_or_shown_on_purpose() -> None:
    for page in PAGES:
        steps(page.read_text(encoding="utf-8"))
        for block in blocks(page.read_text(encoding="utf-8")):
            assert block.lines, page.name
