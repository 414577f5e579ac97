"""Decides when a missing file counts as removed: it may come back in the same edit.

A removal is an administrator's emergency stop, so it must take effect at once. But some programs
remove a file in the middle of an edit: `git checkout` with a smudge filter unlinks each file, runs
the filter for it (git-crypt, git-lfs: 20 to 100 ms) and only then writes it again. So an absence is
waited for at most MAX_WAIT while an edit goes on in the same directory. Two things show that:

- another of its files changed less than MAX_WAIT ago;
- git holds the index lock of a work tree that contains the directory. Only this shows the first
  file of a checkout. A repository that is kept elsewhere (`git --work-tree`) is not seen.

A lone removal counts after one quiet period. Files that are removed together count as one removal.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from agent.disk.fingerprint import Fingerprint

#: The longest time in seconds for which a missing file is awaited while an edit goes on. The
#: filters of git take 20 to 100 ms a file; removed code must not be served for longer than this.
MAX_WAIT = 0.5


@dataclass(slots=True)
class MissingFiles:
    """Which files of one directory are missing, and whether the directory is being edited.

    All times are in monotonic seconds.
    """

    #: By name, when it was first found missing.
    _since: dict[str, float] = field(default_factory=dict)
    #: By name, when a file of the last reading last changed.
    _changed: dict[str, float] = field(default_factory=dict)
    #: Those of the last reading.
    _fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)

    def update(
        self, fingerprints: Mapping[str, Fingerprint], served: Collection[str], now: float
    ) -> None:
        """Take in a reading made at `now`: the fingerprints of its files, by name. `served` are the
        names of the files that are served: only these can be awaited."""
        before, self._fingerprints = self._fingerprints, fingerprints
        if before.get(".") != fingerprints.get("."):
            # Another directory, for example because a link was switched: nothing is awaited.
            self._since.clear()
            self._changed.clear()
        else:
            self._changed = {n: at for n, at in self._changed.items() if n in fingerprints} | {
                name: now
                for name, found in fingerprints.items()
                if name != "." and not name.startswith("/")
                if found != errno.ENOENT and before.get(name, found) != found
            }
        missing = [name for name in served if fingerprints.get(name) == errno.ENOENT]
        self._since = {name: self._since.get(name, now) for name in missing}

    def awaited(self, now: float) -> frozenset[str]:
        """The missing files that are awaited if an edit goes on at `now`."""
        return frozenset(n for n, since in self._since.items() if now - since < MAX_WAIT)

    def is_edited(self, now: float) -> bool:
        """Whether a file that is not missing changed shortly before `now`.

        A file that is saved and then removed is a lone removal.
        """
        return any(
            name not in self._since and now - at < MAX_WAIT for name, at in self._changed.items()
        )


def git_is_writing(directory: str) -> bool:
    """Whether git is changing the work tree that contains the directory. Blocks; never raises."""
    here = os.path.realpath(directory)
    while True:
        git = os.path.join(here, ".git")
        if os.path.lexists(git):
            return os.path.lexists(os.path.join(_git_folder(git), "index.lock"))
        above = os.path.dirname(here)
        if above == here:
            return False
        here = above


def _git_folder(git: str) -> str:
    """The folder of a repository, to which `.git` leads in a linked work tree or a submodule."""
    if os.path.isdir(git):
        return git
    try:
        # Without O_NONBLOCK, a named pipe would block the open.
        fd = os.open(git, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return git
    try:
        text = os.fsdecode(os.read(fd, 5000))
    except OSError:
        return git
    finally:
        os.close(fd)
    folder = text.removeprefix("gitdir:").partition("\n")[0].strip()
    return os.path.join(os.path.dirname(git), folder.replace("\0", ""))
