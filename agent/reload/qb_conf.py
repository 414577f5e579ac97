"""The settings, followed while the agent runs: qb.conf is read again whenever it changes.

Half a qb.conf is never used: it would serve the default directories for an instant, and forget the
stored units of the others. Where qb.conf is lost or wrong, the last valid settings stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import anyio

from agent import settings
from agent.core.diagnostic import Diagnostic, Problem
from agent.core.unit import BEING_WRITTEN
from agent.disk import being_written, fingerprint
from agent.disk.fingerprint import FileInfo, Fingerprint, digest_of, fingerprint_if_closed
from agent.disk.stalls import StallMonitor
from agent.disk.watch.combined import Watch
from agent.disk.watch.interface import Target
from agent.reload.causes import Cause, ChangeKind
from agent.reload.stored import StoredSettings
from agent.settings import Settings
from agent.settings.path_list import DEFAULT, QB_DIRECTORY, QB_LANGUAGES, QB_PATH
from agent.timing import Timing

#: The name of qb.conf among the targets that are watched.
QB_CONF = "qb.conf"


class QbConf:
    """The settings in use, and what is wrong with qb.conf now.

    `read` reads the settings, as `agent.settings.read` does. `stored` returns the last valid
    settings, None if there never were any. `notice` is called where qb.conf is to be read again.
    """

    def __init__(
        self,
        first: Settings,
        read: Callable[[], Settings],
        stored: Callable[[], StoredSettings | None],
        watch: Watch,
        monitor: StallMonitor,
        notice: Callable[[Iterable[str]], None],
        timing: Timing,
    ) -> None:
        self.settings = first
        self.findings: tuple[Diagnostic, ...] = first.findings
        #: What is known of the file as it was last read; None where it was not there.
        self.info: FileInfo | None = None
        #: Monotonic seconds when it was first found being written; None while it is not.
        self.unsettled_since: float | None = None
        self._read = read
        self._stored = stored
        self._watch = watch
        self._monitor = monitor
        self._notice = notice
        self._timing = timing

    @property
    def awaited(self) -> bool:
        """Whether it is being written, but not for so long yet that this was reported."""
        return self.unsettled_since is not None and not any(
            f.code == BEING_WRITTEN for f in self.findings
        )

    async def read_until_quiet(self) -> Settings | None:
        """The settings to use from now on; `findings` say why if they are the previous ones.

        None where qb.conf is being written, or its file system does not respond. Takes one quiet
        period.
        """
        old = self.settings
        if self._watch.is_stalled(old.qb_conf):
            # It is read again when its file system responds.
            self.unsettled_since = None
            return None
        before = await self._monitor.wait(self._fingerprint)
        read = await self._monitor.wait(self._settings_now)
        if read is None:
            self._notice({QB_CONF})
            return None
        new, findings = read
        await anyio.sleep(self._timing.quiet_period)
        settled = before is not None and before == await self._monitor.wait(self._fingerprint)
        if not settled or (new is not old and not _is_of(new, before)):
            self.unsettled_since = self.unsettled_since or time.monotonic()
            if time.monotonic() - self.unsettled_since < self._timing.writing:
                return None
            new, findings = old, (being_written.finding(old.qb_conf, self._timing.writing),)
        else:
            self.unsettled_since = None
            if new is not old or findings != self.findings:
                self.info = await self._monitor.wait(self._info)
        self.findings = findings
        return new

    def causes(self) -> list[Cause]:
        """That the file changed, as it was read last; nothing while it is being written."""
        codes = {finding.code for finding in self.findings}
        if BEING_WRITTEN in codes:
            return []
        change: ChangeKind = "removed" if "qb-conf-lost" in codes else "modified"
        return [Cause(self.settings.qb_conf, change, self.info)]

    def target(self) -> Target:
        """What to watch."""
        # That it can be read again causes no event.
        unread = any(f.code == "qb-conf-unreadable" for f in self.findings)
        return Target((self.settings.qb_conf,), self._is_unchanged, unread)

    def _is_unchanged(self) -> bool:
        try:
            new, findings = self._settings_now()
        except OSError:
            return False
        return new is self.settings and findings == self.findings

    def _fingerprint(self) -> Fingerprint | None:
        """The fingerprint of qb.conf, None while somebody writes it. Blocks."""
        path = self.settings.qb_conf
        with self._monitor.asking(path):
            return fingerprint_if_closed(path, self._watch.mounts.kind(path))

    def _info(self) -> FileInfo | None:
        """What is known of qb.conf now. Blocks."""
        path = self.settings.qb_conf
        with self._monitor.asking(path):
            try:
                return FileInfo.of(fingerprint.of_status(os.stat(path)))
            except OSError:
                return None

    def _settings_now(self) -> tuple[Settings, tuple[Diagnostic, ...]]:
        """The settings to use: the previous ones where qb.conf is lost or wrong. Blocks."""
        old = self.settings
        try:
            with self._monitor.asking(old.qb_conf):
                new = self._read()
        except settings.SettingsError as error:
            hint = "the last valid settings stay until then"
            return old, (Problem("bad-settings", str(error), hint).at(old.qb_conf),)
        if new.has_errors:
            return old, new.findings
        last = self._stored()
        if (
            not new.qb_conf_exists
            and last is not None
            and last.qb_conf_exists
            and last.qb_conf == new.qb_conf
        ):
            message = "the file does not exist any more, so the last valid settings stay"
            hint = "put it back; an empty file means the defaults"
            return old, (Problem("qb-conf-lost", message, hint).at(new.qb_conf),)
        same = new == replace(old, findings=new.findings)
        return (old if same else new), new.findings


def _is_of(read: Settings, found: Fingerprint | None) -> bool:
    """Whether settings were read from the file with this fingerprint: between two equal ones,
    qb.conf may have been another file, or an empty one."""
    if isinstance(found, int) or read.qb_conf_digest is None:
        return isinstance(found, int) and read.qb_conf_digest is None
    # The fingerprint of a file that is not regular, such as /dev/null, has no digest.
    return found is not None and digest_of(found) in (None, read.qb_conf_digest)


def restart_needed(old: Settings, new: Settings) -> list[Diagnostic]:
    """A warning for each parameter of qb.conf that changed and that a stock supervisor reads only
    when it starts."""
    changed = []
    if old.directories != new.directories:
        default = old.sources["directories"] == new.sources["directories"] == DEFAULT
        changed.append(("directories", QB_DIRECTORY if default else QB_PATH))
    if old.languages != new.languages:
        changed.append(("languages", QB_LANGUAGES))
    return [_restart_needed(parameter, new, new.line_of(name)) for name, parameter in changed]


def _restart_needed(parameter: str, new: Settings, line: int | None) -> Diagnostic:
    message = f"{parameter} changed: a stock supervisor uses the new value only after a restart"
    hint = "restart the supervisor, if it does not ask this agent:"
    hint += " `qbadmin supervisor --reread` does not read this parameter again"
    problem = Problem("restart-needed", message, hint)
    return problem.at(new.qb_conf, line, None if line is None else 1)
