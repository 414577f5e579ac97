"""The folder of the pipe: made before the agent listens, and checked."""

from __future__ import annotations

import os
import stat
import sys

from agent.core.quoting import printable, shown
from agent.settings import Settings, SettingsError
from agent.settings.path_list import DEFAULT

#: The longest path of a Unix socket in bytes: sun_path without its ending NUL.
MAX_PIPE_BYTES = {"linux": 107, "darwin": 103}
_OTHER_PIPE = "choose another path with --pipe"


def make(settings: Settings) -> None:
    """Make the folder of the default pipe, with mode 0700 (0755 for root), and check it.

    A folder that belongs to another user, or that others can write to, is refused: they could put
    a pipe of their own there. The folder of a pipe that was named is not made. Raises
    SettingsError.
    """
    check_length(settings.pipe)
    folder = os.path.dirname(settings.pipe)
    quoted = printable(folder)
    if settings.sources["pipe"] != DEFAULT:
        if not os.path.isdir(folder):
            raise SettingsError(
                f"{settings.sources['pipe']}: the pipe's folder {quoted} does not exist; make it"
                " first"
            )
        return
    uid = os.geteuid()
    mode = 0o755 if uid == 0 else 0o700
    try:
        os.mkdir(folder, mode)
        os.chmod(folder, mode)  # The umask may have removed bits.
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsError(
            f"the pipe's folder {quoted} cannot be made: {error.strerror}; {_OTHER_PIPE}"
        ) from None
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise SettingsError(f"the pipe's folder {quoted} is not a directory; {_OTHER_PIPE}")
    if found.st_uid != uid:
        raise SettingsError(
            f"the pipe's folder {quoted} belongs to the user id {found.st_uid}, and the agent runs"
            f" as {uid}; {_OTHER_PIPE}"
        )
    if found.st_mode & 0o022:
        raise SettingsError(
            f"others can write to the pipe's folder {quoted} (mode"
            f" {stat.S_IMODE(found.st_mode):04o}): chmod {mode:o} {quoted}"
        )


def check_length(path: str, system: str = sys.platform) -> None:
    """Raise SettingsError if the path is too long for a Unix socket of this system."""
    limit = MAX_PIPE_BYTES.get(system, min(MAX_PIPE_BYTES.values()))
    length = len(os.fsencode(path))
    if length > limit:
        raise SettingsError(
            f"the path of the pipe, {shown(path)}, has {length} bytes; a Unix socket allows"
            f" {limit}: choose a shorter one with --pipe"
        )
