"""What defaults and relative paths depend on, and the default paths."""

from __future__ import annotations

import os
import posixpath
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.quoting import shown


class BadPath(ValueError):
    """A path that cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """`sys.platform`, user id, home and working directory."""

    system: str
    uid: int
    home: str
    #: None if it was deleted: then a relative path is an error.
    cwd: str | None

    @classmethod
    def here(cls) -> Host:
        """Those of this process."""
        uid = os.geteuid()
        home = os.environ.get("HOME")
        if not home:  # Only then: the database of users may be on a slow server.
            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                home = "/"
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None
        return cls(sys.platform, uid, home, cwd)

    def absolute(self, path: str) -> str:
        """The path, absolute and otherwise unchanged. Raises BadPath."""
        if not path.startswith("/") and self.cwd is None:
            raise BadPath(
                f"{shown(path)} is a relative path, and the working directory was deleted; give an"
                " absolute path"
            )
        return posixpath.join(self.cwd or "/", path)


def home(environ: Mapping[str, str], host: Host) -> str:
    """The user's home directory."""
    return environ.get("HOME") or host.home


def default_pipe(environ: Mapping[str, str], host: Host) -> str:
    """The pipe. `agent.client`, which is copied alone, has the same rule."""
    if host.uid == 0:
        return "/run/callback-agent/pipe"
    # The XDG Base Directory Specification: a path that is not absolute is ignored.
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return posixpath.join(runtime, "callback-agent", "pipe")
    temporary = environ.get("TMPDIR", "")
    if not temporary.startswith("/"):
        temporary = "/tmp"  # noqa: S108  (serve refuses a folder there that another user owns)
    return posixpath.join(temporary, f"callback-agent-{host.uid}", "pipe")


def default_state(environ: Mapping[str, str], host: Host) -> str:
    """The folder of what is kept over restarts."""
    if host.uid == 0:
        return "/var/lib/callback-agent"
    state = environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        state = posixpath.join(home(environ, host), ".local/state")
    return posixpath.join(state, "callback-agent")


def default_log(environ: Mapping[str, str], host: Host) -> str:
    """The reload log."""
    if host.uid == 0:
        return "/var/log/callback-agent/reload.log"
    return posixpath.join(default_state(environ, host), "reload.log")
