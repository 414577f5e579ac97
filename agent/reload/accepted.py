"""What an agent has accepted of a directory, seen from another process. Nothing is changed.

The state directory knows everything. What the agent answers to `list` is nearly as much: it lacks
the lines whose files are missing, and whether a callbacks.conf was emptied.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from agent.core.trigger import Trigger
from agent.core.unit import Implementation, Unit
from agent.disk.permissions import Trust
from agent.reload import last_good, state_files, stored
from agent.reload.state_files import CodeFiles, Damaged
from agent.reload.stored import StoredUnit
from agent.rpc import listed

_T = TypeVar("_T")


def stored_unit(state: str, pipe: str, directory: str, trust: Trust) -> StoredUnit | None:
    """The unit of a directory that the agent of `pipe` stored last in the directory `state`; None
    if it stored none. Blocks.

    Raises OSError if it cannot be read, or if users whom the agent does not trust may write there;
    Damaged if it is damaged.
    """
    folder = last_good.folder_of(state, pipe)
    load_code = CodeFiles(folder).load
    return _newest(
        folder,
        last_good.unit_file(folder, directory),
        lambda data: stored.decode_unit(data, directory, load_code),
        trust,
    )


def stored_directories(state: str, pipe: str, trust: Trust) -> list[str]:
    """The directories that the agent of `pipe` listed last, by its settings in the directory
    `state`; none if it stored none. Blocks. Raises as `stored_unit`."""
    folder = last_good.folder_of(state, pipe)
    settings = _newest(folder, last_good.settings_file(folder), stored.decode_settings, trust)
    return settings.directories if settings else []


def _newest(folder: str, file: str, decode: Callable[[bytes], _T], trust: Trust) -> _T | None:
    """What is in a file of an agent's folder; None if there is none. Raises as `stored_unit`."""
    try:
        for path in (os.path.dirname(folder), folder):
            state_files.check_folder(path, trust)
    except FileNotFoundError:
        return None
    damage: Exception | None = None
    for path in last_good.candidates(file):
        try:
            return decode(state_files.read(path, last_good.MAX_BYTES))
        except FileNotFoundError:
            continue
        except stored.DAMAGE as error:
            damage = error
    if damage is not None:
        raise Damaged(str(damage) or type(damage).__name__)
    return None


def listed_unit(callbacks: Iterable[Mapping[str, Any]]) -> Unit | None:
    """The unit of a directory, from its callbacks as `list` returns them with their code; None if
    there are none. Its Python is not checked.

    Raises LookupError, TypeError or ValueError if they do not have the form of a callback.
    """
    registrations = []
    implementations: dict[str, Implementation] = {}
    trees: dict[str, Trigger] = {}
    for callback in callbacks:
        registrations.append(listed.registration(callback, trees))
        file = callback["file"]
        if file not in implementations:
            code = callback.get("code")
            raw = base64.b64decode(callback["code_base64"]) if code is None else code.encode()
            implementations[file] = Implementation.of(raw)
    return Unit(tuple(registrations), implementations) if registrations else None
