"""What the errno of a failed open or read means: of a directory, and of a file in it.

One table each. What is in no table is `unreadable`, with the system's own message.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from typing import NamedTuple

from agent.core.diagnostic import Problem, ProblemError
from agent.core.quoting import printable, shown
from agent.core.unit import BEING_WRITTEN, ERROR, FAULT, Absent, Unusable
from agent.disk.fingerprint import OUT_OF_RESOURCES
from agent.disk.near_directory import near_directory
from agent.disk.permissions import owner_and_mode

RETRIED = "the agent tries again by itself"


class Fault(ProblemError):
    """The directory cannot be read."""


class _Meaning(NamedTuple):
    """A problem's code, its message with {} for the quoted path, and its hint. Of a file, why the
    directory is then held; and whether to read again even if nothing changes."""

    code: str
    message: str
    hint: str
    held: str = ERROR
    retry: bool = True


_CORRECT_LINK = "correct the link, or create its target"
_CREATE = "create the directory, mount it, or correct the path"

_OF_DIRECTORY = {
    errno.ENOENT: _Meaning("missing", "{} does not exist", _CREATE),
    errno.ENOTDIR: _Meaning(
        "not-a-directory",
        "{} is not a directory",
        "name the directory, not a file in it, or put a directory there",
    ),
    errno.ELOOP: _Meaning("dangling-link", "{} leads through too many links", "correct the links"),
}

_DANGLING = _Meaning(
    "dangling-link", "{} is a link that leads nowhere", _CORRECT_LINK, FAULT, False
)
_WRITTEN = _Meaning(BEING_WRITTEN, "{} is open for writing", RETRIED, BEING_WRITTEN, False)
_NOT_REGULAR = _Meaning(
    "not-a-regular-file", "{} is not a regular file", "put a regular file there"
)

_OF_FILE = {
    # Another process holds a write lease.
    errno.EAGAIN: _WRITTEN,
    # What was not a link when stat was called is one now.
    errno.ELOOP: _WRITTEN,
    errno.EOVERFLOW: _Meaning("too-big", "{} is too large for this system", "make it smaller"),
    # A socket, or a device without a driver.
    errno.ENXIO: _NOT_REGULAR,
    errno.ENODEV: _NOT_REGULAR,
}
#: In addition, of a file that is a link.
_OF_LINK = dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG), _DANGLING)
#: Of a file that is not a link: there is none.
_ABSENT = (errno.ENOENT, errno.ENAMETOOLONG)


def of_directory(directory: str, error: Fault | OSError | MemoryError) -> Fault:
    """Why a directory cannot be read. Blocks."""
    if isinstance(error, Fault):
        return error
    quoted = shown(directory)
    if isinstance(error, MemoryError):
        message = f"there is not enough memory to read {quoted}"
        return Fault("out-of-resources", message, RETRIED)
    number = error.errno or errno.EIO
    if number in OUT_OF_RESOURCES:
        return Fault("out-of-resources", f"{os.strerror(number)} when opening {quoted}", RETRIED)
    if number == errno.EACCES:
        return Fault("unreadable", *_denied(quoted, directory))
    meaning = _OF_DIRECTORY.get(number)
    if number == errno.ENOENT and os.path.islink(directory):
        meaning = _DANGLING
    elif number == errno.ENOENT and (near := near_directory(directory)):
        hint = f"did you mean {shown(near)}? If not, {_CREATE}"
        return Fault("missing", f"{quoted} does not exist", hint)
    if number == errno.ENOTDIR:
        quoted = shown(_not_a_directory(directory))
    if meaning is None:
        return Fault("unreadable", f"{os.strerror(number)} when opening {quoted}", RETRIED)
    return Fault(meaning.code, meaning.message.format(quoted), meaning.hint)


def of_file(
    number: int, directory: str, name: str, is_link: bool, is_regular: bool
) -> tuple[Absent | Unusable, bool]:
    """What a file is whose open or read failed with this errno, and whether to read it again even
    if nothing changes. Raises Fault where the process or the system lacks resources."""
    quoted = shown(name)
    meaning = _OF_FILE.get(number)
    if is_link:
        meaning = _OF_LINK.get(number, meaning)
    elif number in _ABSENT:
        return Absent(), False
    if meaning is _NOT_REGULAR and is_regular:
        meaning = None
    if number == errno.EACCES:
        problem = Problem("unreadable", *_denied(quoted, f"{directory}/{name}"))
        return Unusable(problem), True
    if meaning is not None:
        return _unusable(meaning, quoted), meaning.retry
    if number in OUT_OF_RESOURCES:
        message = f"{os.strerror(number)} when reading {shown(directory)}"
        raise Fault("out-of-resources", message, RETRIED)
    message = f"{os.strerror(number)} when reading {quoted}"
    return Unusable(Problem("unreadable", message, RETRIED), FAULT), True


def not_regular(name: str) -> Unusable:
    """A directory, device or the like in the place of a file."""
    return _unusable(_NOT_REGULAR, shown(name))


def too_big(name: str, size: str, most: int) -> Unusable:
    """A file with more bytes than are read. `size` is a part of the message: `has 5 bytes`."""
    message = f"{shown(name)} {size}; at most {most} are read"
    return Unusable(Problem("too-big", message, "make it smaller"))


def _unusable(meaning: _Meaning, quoted: str) -> Unusable:
    problem = Problem(meaning.code, meaning.message.format(quoted), meaning.hint)
    return Unusable(problem, meaning.held)


def _denied(quoted: str, path: str) -> tuple[str, str]:
    """Message and hint where the right to read a file or directory is missing: of what, and the
    command that gives it. Blocks."""
    message = f"the agent may not read {quoted}"
    end = part = os.path.realpath(path)
    while True:
        try:
            status = os.stat(part)
            break
        except OSError:
            if part == "/":
                return message, "let the agent's user read it"
            part = os.path.dirname(part)
    right, bits = "r", stat.S_IROTH
    if part != end:
        right, bits = "x", stat.S_IXOTH
        message += f": it may not search {shown(part)}"
    elif stat.S_ISDIR(status.st_mode):
        right, bits = "rx", stat.S_IROTH | stat.S_IXOTH
    message += f" ({owner_and_mode(status)})"
    if status.st_mode & bits == bits:
        return message, (
            "its mode allows that: look at its ACL (getfacl), at SELinux or AppArmor, and at the"
            " file server"
        )
    if printable(part) != part:  # a command with the name as it is shown would not work
        return message, f"give its group or all users the rights {right}"
    return message, f"chmod a+{right} {shlex.quote(part)}"


def _not_a_directory(path: str) -> str:
    """Which part of a path is not a directory: the first above it, else the path itself. Blocks."""
    parts = path.split("/")
    for count in range(2, len(parts)):
        above = "/".join(parts[:count])
        if os.path.exists(above) and not os.path.isdir(above):
            return above
    return path
