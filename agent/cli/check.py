"""The command `check`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from agent.cli import findings as forms
from agent.cli import screen
from agent.cli.completing import directories
from agent.cli.input import directory, not_empty
from agent.cli.output import encoded_lines, json_line, paint, say, write
from agent.cli.setting_options import given_settings, setting_options
from agent.cli.starting import start_errors, timing
from agent.core.counting import count
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.quoting import printable
from agent.settings import CHECK, Given, Settings, read, read_qb_conf
from agent.settings.host import Host

if TYPE_CHECKING:
    from agent.check import Checked, Subject

FULL, CONCISE, JSON, GITHUB = "full", "concise", "json", "github"


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, shell_complete=directories)
@setting_options(CHECK)
@click.option(
    "--output-format",
    type=click.Choice((FULL, CONCISE, JSON, GITHUB)),
    default=FULL,
    show_default=True,
    help="full: with the source line and what to write; concise: one line each; json; github:"
    " annotations of GitHub Actions.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --output-format json.")
@click.option("--strict", is_flag=True, help="Warnings count as errors for the exit status.")
@click.option(
    "--first-reading",
    is_flag=True,
    help="Judge every directory as new, even one that an agent serves.",
)
@click.option("--watch", is_flag=True, help="Check again at each change, until SIGINT.")
@click.pass_context
def check(
    context: click.Context,
    /,
    paths: tuple[str, ...],
    output_format: str,
    as_json: bool,
    strict: bool,
    first_reading: bool,
    watch: bool,
    **_: Any,
) -> int:
    """Read directories as serve would, and print every finding.

    PATH is a directory or its callbacks.conf. Without one: the directories that serve would read,
    or if no setting names any, those of the running agent. Changes nothing and needs no agent. A
    directory that a running agent serves, or served last, is judged as an edit of that.

    Exit status: 0 no errors, 1 errors (with --strict also for warnings).
    """
    for path in paths:
        not_empty(path, "PATH")
    from agent.daemon import process

    with start_errors():
        process.prepare(serves=False)
        from agent.check import check_directories, watch_directories
        from agent.daemon.descriptors import raise_fd_limit

        host = Host.here()
        named = [directory(path, "PATH", host) for path in paths]
        rounds = _Rounds(given_settings(context), host, tuple(dict.fromkeys(named)), first_reading)
        report = _Report(JSON if as_json else output_format, strict, rounds, with_time=watch)
        process.leave_working_directory()
        raise_fd_limit()
        if watch:
            with contextlib.suppress(KeyboardInterrupt):
                watch_directories(
                    rounds.subjects, rounds.settings.qb_conf, report.print, timing(context)
                )
            return report.status
        checked = check_directories(rounds.subjects(), timing(context))
    report.print(checked)
    return report.status


class _Rounds:
    """What is checked in each round."""

    def __init__(
        self, given: Mapping[str, Given], host: Host, named: tuple[str, ...], first_reading: bool
    ) -> None:
        self._given = given
        self._host = host
        self._named = named
        self._first_reading = first_reading
        self.settings = read(given, host=host)
        #: By directory as it was named, how it is judged.
        self.judged: dict[str, str] = {}
        #: What a person must know of how they were found and judged.
        self.notes: list[str] = []
        #: By path of a directory that is checked, the path that was named.
        self._names: dict[str, str] = {}

    def subjects(self) -> list[Subject]:
        """The directories of the next round, with what is accepted of them now. Blocks.

        Raises SettingsError.
        """
        from agent.cli.served import AS_NEW, Serving

        self.settings = read(self._given, host=self._host)
        unasked = Serving(self.settings, self._given)
        needs_agent = not (self._named and self._first_reading)
        serving = Serving.find(self.settings, self._given) if needs_agent else unasked
        self.notes = serving.notes
        directories = self._named or serving.listed()
        if self._first_reading:
            self.judged, self._names = dict.fromkeys(directories, AS_NEW), {}
            return [unasked.new_subject(path) for path in directories]
        found = {path: serving.subject(path) for path in directories}
        # Two paths may lead to one that is served: it is checked once, under the first.
        subjects: dict[str, Subject] = {}
        self.judged, self._names = {}, {}
        for path, (subject, how) in found.items():
            if subject.path not in subjects:
                subjects[subject.path] = subject
                self._names[subject.path] = path
                self.judged[path] = how
        return [*subjects.values()]

    def as_named(self, checked: Checked) -> Checked:
        """What was found in a directory, under the path that was named."""
        return checked.at(self._names.get(checked.path, checked.path))

    def explained(self, finding: Diagnostic) -> Diagnostic:
        """A finding of a directory, with what to do about a path that cannot be read: which setting
        lists it, or that it was probably mistyped. Blocks."""
        from agent.check import with_hint_for_path
        from agent.cli.served import AS_NEW

        if self._named:
            typed = [path for path, how in self.judged.items() if how == AS_NEW]
            finding = with_hint_for_path(finding, {*typed} - {*self.settings.directories})
        return self.settings.with_source(finding)


@dataclass(slots=True)
class _Report:
    """Prints the findings of each round."""

    form: str
    strict: bool
    rounds: _Rounds
    #: Whether the last line of a round begins with the time of day.
    with_time: bool
    #: The exit status after the last round.
    status: int = field(default=0, init=False)

    def print(self, checked: Sequence[Checked]) -> bool:
        """Print a round. Returns whether somebody reads it."""
        from agent.check import in_order
        from agent.cli.served import AS_NEW, judged_lines

        checked = [self.rounds.as_named(c) for c in checked]
        settings = self.rounds.settings
        found = in_order(
            [
                *settings.findings,
                *(self.rounds.explained(f) for c in checked for f in c.findings),
            ]
        )
        bad = {Severity.ERROR, Severity.WARNING} if self.strict else {Severity.ERROR}
        self.status = 1 if any(f.severity in bad for f in found) else 0
        read = write(
            json_line({"diagnostics": [f.as_json() for f in found]})
            if self.form == JSON
            else encoded_lines(self._lines(found, checked, settings))
        )
        judged = self.rounds.judged
        if self.form != JSON or set(judged.values()) != {AS_NEW}:
            number = count(len(checked), "directory", "directories")
            last = f"{number}: {forms.tally(found)}"
            if self.with_time:
                last = f"[{time.strftime('%H:%M:%S')}] {last}"
            for line in judged_lines(judged, last):
                say(line)
        for note in self.rounds.notes:
            say(printable(f"note: {note}"))
        return read

    def _lines(
        self, found: Sequence[Diagnostic], checked: Sequence[Checked], settings: Settings
    ) -> Iterator[str]:
        def read(path: str) -> bytes | None:
            for one in checked:
                source = one.source(path)
                if source is not None:
                    return source
            content = read_qb_conf(path) if path == settings.qb_conf else None
            return content if isinstance(content, bytes) else None

        sources = forms.Sources(read)
        width = screen.width() or forms.SOURCE_WIDTH
        for finding in found:
            if self.form == GITHUB:
                yield forms.github(finding)
            elif self.form == CONCISE:
                yield forms.concise(finding, paint)
            else:
                yield from forms.full(finding, sources.line(finding), width, paint)
