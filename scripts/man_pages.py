"""Makes the pages for `man`, from what `--help` says and from the manual.

    python scripts/man_pages.py FOLDER      # writes man1/*.1 and man5/*.5 into FOLDER

The wheel ships them in share/man: this file is a build hook of hatchling too. The pages are in the
`man` macros of groff(7), which groff and mandoc show alike.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "callback-agent"
#: The pages of the manual that callbacks.conf(5) consists of. The first begins it.
CONF_PAGES = ("callbacks-conf", "trigger-syntax")
SUMMARY_OF_CONF = "the file that names callbacks and the events on which they run"

#: Markdown in prose: `code`, **bold**, *emphasis*.
_INLINE = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|\*(\w[^*`]*)\*")
_STATUS = re.compile(r"(?:^|[,;] )(?=\d )")


def pages(version: str) -> dict[str, str]:
    """Every page by its path below share/man."""
    sys.path.insert(0, str(ROOT))
    try:
        import click

        from agent import cli, manual
    finally:
        sys.path.remove(str(ROOT))
    root = cli.commands.make_context(PROGRAM, [], resilient_parsing=True)
    commands = {}
    for name in cli.commands.list_commands(root):
        command = cli.commands.get_command(root, name)
        assert command is not None
        commands[name] = click.Context(command, info_name=name, parent=root)
        if isinstance(command, click.Group):
            commands |= _of_group(commands[name], name)
    found = {f"man1/{PROGRAM}.1": _program_page(root, commands, manual, version)}
    for name, context in commands.items():
        found[f"man1/{PROGRAM}-{name}.1"] = _command_page(context, version)
    found["man5/callbacks.conf.5"] = _conf_page(manual, version)
    return found


def _of_group(context: Any, name: str) -> dict[str, Any]:
    """The commands of a group, as `slurm-run`."""
    return {
        f"{name}-{one}": type(context)(command, info_name=one, parent=context)
        for one, command in context.command.commands.items()
    }


def _program_page(root: Any, commands: dict[str, Any], manual: Any, version: str) -> str:
    lines = [*_head(PROGRAM, 1, version, root.command.help), ".SH SYNOPSIS"]
    lines += [f".B {_plain(PROGRAM)}", r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]"]
    about = manual.find("commands")
    lines += [".SH DESCRIPTION", *_markdown(manual, about.partition("\n")[2].partition("\n## ")[0])]
    lines.append(".SH COMMANDS")
    for name, context in commands.items():
        lines += [".TP", f".BR {_plain(f'{PROGRAM}-{name}')} (1)", _plain(_summary(context))]
    lines += _options(root)
    statuses = re.search(r"^## Exit statuses\n(.*?)(?=^```|\Z)", about, re.M | re.S)
    assert statuses is not None
    lines += [".SH EXIT STATUS", *_markdown(manual, statuses[1])]
    lines += [".SH THE MANUAL", f".B {_plain(f'{PROGRAM} help')} \\fITOPIC\\fR", "shows one of:"]
    for topic, sentence in manual.topics().items():
        lines += [".TP", f".B {_plain(topic)}", _inline(sentence)]
    return _page([*lines, *_see_also([*commands], conf=True)])


def _command_page(context: Any, version: str) -> str:
    name = context.command_path.replace(" ", "-")
    lines = [*_head(name, 1, version, _summary(context)), ".SH SYNOPSIS"]
    pieces = context.command.collect_usage_pieces(context)
    lines += [f".B {_plain(context.command_path)}"]
    lines += [re.sub(r"[A-Z]{2,}|\bN\b", r"\\fI\g<0>\\fR", _plain(piece)) for piece in pieces]
    *paragraphs, last = inspect.cleandoc(context.command.help or "").split("\n\n")
    statuses = re.match(r"Exit status: (.*)\.$", " ".join(last.split()))
    lines.append(".SH DESCRIPTION")
    for paragraph in paragraphs if statuses else [*paragraphs, last]:
        if paragraph.startswith("\b"):
            lines += _code(paragraph.strip("\b\n").splitlines())
        else:
            lines += [".PP", _inline(" ".join(paragraph.split()))]
    if of_group := getattr(context.command, "commands", None):
        lines.append(".SH COMMANDS")
        for one, command in of_group.items():
            summary = inspect.cleandoc(command.help or "").partition("\n\n")[0]
            lines += [
                ".TP",
                f".BR {_plain(f'{name}-{one}')} (1)",
                _plain(" ".join(summary.split())),
            ]
    lines += _options(context)
    if statuses:
        lines.append(".SH EXIT STATUS")
        for one in filter(None, _STATUS.split(statuses[1])):
            number, _, meaning = one.partition(" ")
            lines += [".TP", f".B {number}", _plain(meaning)]
        lines += [".PP", "The statuses of all commands are in", f".BR {_plain(PROGRAM)} (1)."]
    return _page([*lines, *_see_also([], conf=context.info_name in ("check", "serve", "diff"))])


def _conf_page(manual: Any, version: str) -> str:
    lines = list(_head("callbacks.conf", 5, version, SUMMARY_OF_CONF))
    for topic in CONF_PAGES:
        title = "DESCRIPTION" if topic == CONF_PAGES[0] else topic.upper().replace("-", " ")
        text = manual.find(topic)
        if topic in manual.codes():
            text = text[text.index("\n# ") + 1 :]  # The page of the code comes first.
        lines += [f".SH {_plain(title)}", *_markdown(manual, text.partition("\n")[2], ".SS")]
    return _page([*lines, *_see_also(["check", "explain"], conf=False)])


# -- parts of a page ------------------------------------------------------------------------------


def _head(name: str, section: int, version: str, summary: str) -> Iterator[str]:
    yield "'\\\" t"  # It may have tables.
    # Without a date, so that the same source gives the same page.
    yield f'.TH "{_plain(name.upper())}" {section} "" "{_plain(PROGRAM)} {version}"'
    # Commands are not cut at the end of a line.
    yield from (".ad l", ".nh", ".SH NAME")
    yield f"{_plain(name)} \\- {_plain(summary.rstrip('.'))}"


def _summary(context: Any) -> str:
    """The first paragraph of a command's help."""
    return " ".join((context.command.help or "").split("\n\n")[0].split())


def _options(context: Any) -> Iterator[str]:
    yield ".SH OPTIONS"
    variables = []
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if parameter.param_type_name == "argument" or record is None:
            continue
        names, about = record
        if parameter.envvar:
            variables.append((parameter.envvar, max(parameter.opts, key=len)))
            about = re.sub(r"\s*\[env var:[^]]*\]", "", about)
        # An option in bold, its value in italics.
        shown = re.sub(r"--?[a-z][\w-]*", lambda found: rf"\fB{_plain(found[0])}\fR", names)
        shown = re.sub(r"(?<= )[A-Z]+$", r"\\fI\g<0>\\fR", shown)
        yield from (".TP", shown, _inline(" ".join(about.split())))
    if variables:
        yield ".SH ENVIRONMENT"
    for variable, option in variables:
        yield from (".TP", f".B {variable}", f"Counts where \\fB{_plain(option)}\\fR is not given.")


def _see_also(commands: Sequence[str], conf: bool) -> Iterator[str]:
    names = [f"{PROGRAM}-{name}" for name in commands] or [PROGRAM]
    others = [f".BR {_plain(name)} (1)" for name in sorted(names)]
    if conf:
        others.append(".BR callbacks.conf (5)")
    yield ".SH SEE ALSO"
    yield ",\n".join(others)


# -- Markdown and text ----------------------------------------------------------------------------


def _markdown(manual: Any, text: str, heading: str = ".SH") -> Iterator[str]:
    """A page of the manual, or a part of one, in macros."""
    for kind, group in groupby(manual.kinds(text), itemgetter(0)):
        lines = [line for _, line in group]
        if kind == "code":
            yield from _code(lines)
        elif kind == "heading":
            titles = (manual.plain_text(line.lstrip("# ")).replace("`", "") for line in lines)
            yield from (f"{heading} {_plain(title)}" for title in titles)
        elif kind == "table":
            yield from _table(manual, lines)
        elif kind == "prose":
            yield from _prose(manual, lines)


def _prose(manual: Any, lines: Iterable[str]) -> Iterator[str]:
    """A paragraph or a list. The lines of an item after its first are indented."""
    items = re.split(r"\n(?=- )", "\n".join(lines))
    for item in items:
        yield ".IP \\(bu 2" if item.startswith("- ") else ".PP"
        yield _inline(_unlinked(manual, " ".join(item.removeprefix("- ").split())))


def _table(manual: Any, lines: Iterable[str]) -> Iterator[str]:
    rows = [[cell.strip() for cell in manual.CELL.split(line)[1:-1]] for line in lines]
    head, _, *body = rows
    columns = len(head)
    if columns == 2:
        for name, about in body:
            shown = _plain(manual.plain_text(name).replace("`", ""))
            yield from (".TP", rf"\fB{shown}\fR", _inline(_unlinked(manual, about)))
        return
    yield from (
        ".PP",
        ".TS",
        "tab(|);",
        "l1b " * (columns - 1) + "lb",
        "l1 " * (columns - 1) + "l.",
    )
    for row in [head, *body]:
        yield "|".join(_plain(manual.plain_text(cell).replace("`", "")) for cell in row)
    yield ".TE"


def _code(lines: Iterable[str]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf")
    for line in lines:
        yield _plain(line) if line.strip() else r"\&"
    yield from (".fi", ".RE")


def _unlinked(manual: Any, text: str) -> str:
    r"""Prose, or a cell of a table, without the targets of its links and the `\` of `\|`."""
    unlinked: str = manual.LINK.sub(r"\1", text)
    return unlinked.replace("\\|", "|")


def _inline(text: str) -> str:
    """Prose with `code` and **bold** in bold, *emphasis* in italics."""
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        parts.append(_escaped(text[at : found.start()]))
        if found[3]:
            parts.append(rf"\fI{_escaped(found[3])}\fR")
        else:
            parts.append(rf"\fB{_escaped(found[1] or found[2].replace('`', ''))}\fR")
        at = found.end()
    return _guarded("".join([*parts, _escaped(text[at:])]))


def _plain(text: str) -> str:
    """A line in which nothing is a command. Hyphens can be copied into a shell."""
    return _guarded(_escaped(text))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-")


def _guarded(text: str) -> str:
    return rf"\&{text}" if text[:1] in (".", "'") else text


def _page(lines: Iterable[str]) -> str:
    """The text of a page. A paragraph that follows a heading needs no macro."""
    kept: list[str] = []
    for line in lines:
        if line == ".PP" and kept and kept[-1].startswith((".SH", ".SS")):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"


# -- building -------------------------------------------------------------------------------------


def write(folder: Path, version: str) -> list[Path]:
    """Write every page below a folder; their paths in it."""
    found = []
    for name, text in pages(version).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        found.append(Path(name))
    return found


class ManPages(BuildHookInterface[Any]):
    """Adds the pages to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages beside the build, and name them as data of the wheel."""
        self.folder = Path(tempfile.mkdtemp(prefix="man-pages-"))
        for name in write(self.folder, self.metadata.version):
            build_data["shared_data"][str(self.folder / name)] = f"share/man/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` wrote."""
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), importlib.metadata.version(PROGRAM))
