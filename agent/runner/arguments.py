"""Checks the arguments of `run` before a callback runs."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

#: The longest time limit in seconds. System calls refuse much larger ones.
MAX_TIME_LIMIT = 1e6
#: What `run` needs of a callback, besides its code.
_FIELDS: Mapping[str, type] = {
    **dict.fromkeys(("path", "file", "trigger", "language"), str),
    "enabled": bool,
}


def check_arguments(
    answer: object,
    job: object,
    event: object,
    interpreters: object,
    at_once: object,
    time_limit: object,
    folder: object,
    environment: object,
) -> None:
    """Raise TypeError or ValueError for what `run` cannot use. None stands for a default."""
    _check_answer(answer)
    if not _is_whole(job):
        raise _wrong(TypeError, "job", job, "the id of the job, an int")
    _check_event(event)
    _check_interpreters(interpreters)
    if not _is_whole(at_once):
        raise _wrong(TypeError, "at_once", at_once, "how many run at a time, an int")
    if at_once < 1:
        raise _wrong(ValueError, "at_once", at_once, "how many run at a time, 1 or more")
    seconds = f"seconds, above 0 and at most {MAX_TIME_LIMIT:g}"
    if not isinstance(time_limit, (int, float)) or isinstance(time_limit, bool):
        raise _wrong(TypeError, "time_limit", time_limit, seconds)
    if not 0 < time_limit <= MAX_TIME_LIMIT:
        raise _wrong(ValueError, "time_limit", time_limit, seconds)
    _check_folder(folder)
    _check_environment(environment)


def code_of(callback: Mapping[str, Any]) -> bytes | None:
    """The bytes of a callback's code; None if the answer has no code.

    Raises ValueError if they cannot be decoded.
    """
    if "code_base64" in callback:
        return base64.b64decode(callback["code_base64"], validate=True)
    if "code" in callback:
        return bytes(callback["code"], "utf-8")
    return None


def _check_answer(answer: object) -> None:
    expected = "an answer of lookup(code=True)"
    if not isinstance(answer, Mapping):
        raise _wrong(TypeError, "answer", answer, expected)
    callbacks = answer.get("callbacks")
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise _wrong(TypeError, "answer", answer, expected)
    if "owners" in answer:
        raise ValueError(
            "answer is of many owners, of which each has other callbacks: expected"
            ' {"callbacks": [...]} with those that the `fires` of one owner names'
        )
    for number, callback in enumerate(callbacks):
        _check_callback(f"callbacks[{number}]", callback)


def _check_callback(name: str, callback: object) -> None:
    if not isinstance(callback, Mapping):
        raise _wrong(TypeError, name, callback, "a callback of an answer of lookup(code=True)")
    for field, kind in _FIELDS.items():
        if field not in callback:
            raise ValueError(f"{name} has no `{field}`: expected {kind.__name__}")
    for field, kind in {**_FIELDS, "code": str, "code_base64": str}.items():
        if field in callback and not isinstance(callback[field], kind):
            raise _wrong(TypeError, f"{name}[{field!r}]", callback[field], kind.__name__)
    if "missing" in callback or callback.get("verdict", "fires") != "fires":
        raise ValueError(f"{name} does not fire: expected a callback of an answer of lookup")
    if "/" in callback["file"] or not _can_be_passed(callback["file"]):
        raise _wrong(ValueError, f"{name}['file']", callback["file"], "the name of a file")
    try:
        code_of(callback)
    except ValueError as error:
        raise ValueError(
            f"{name} has code that cannot be decoded ({error}): expected `code` in Unicode or"
            " `code_base64` in base64"
        ) from None


def _check_event(event: object) -> None:
    expected = "what lookup was asked for, an event as text or as an object"
    if event is None or isinstance(event, str):
        return
    if not isinstance(event, Mapping):
        raise _wrong(TypeError, "event", event, expected)
    if "type" not in event or not isinstance(event.get("job"), Mapping):
        raise _wrong(ValueError, "event", event, f"{expected} with `type` and `job`")


def _check_interpreters(interpreters: object) -> None:
    if interpreters is None:
        return
    if not isinstance(interpreters, Mapping):
        raise _wrong(TypeError, "interpreters", interpreters, "commands by language or path")
    for what, command in interpreters.items():
        if what not in ("python", "perl") and not (isinstance(what, str) and what.startswith("/")):
            expected = "python, perl or the path of a callback as the name"
            raise _wrong(ValueError, "interpreters", interpreters, expected)
        name = f"interpreters[{what!r}]"
        expected = "a program, by absolute path or by name, or a command as a list"
        words = [command] if isinstance(command, str) else command
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise _wrong(TypeError, name, command, expected)
        # A relative path would be that of another program: the command runs in the directory /.
        if not words or not words[0] or words[0].find("/") > 0:
            raise _wrong(ValueError, name, command, expected)
        if not all(map(_can_be_passed, words)):
            raise _wrong(ValueError, name, command, expected)


def _check_folder(folder: object) -> None:
    if folder is None:
        return
    path = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    if not isinstance(path, str):
        raise _wrong(TypeError, "folder", folder, "the path of a directory")
    if not _can_be_passed(path):
        raise _wrong(ValueError, "folder", folder, "the path of a directory")


def _check_environment(environment: object) -> None:
    if environment is None:
        return
    if not isinstance(environment, Mapping):
        raise _wrong(TypeError, "environment", environment, "the values of variables by name")
    for name, value in environment.items():
        # The value is not shown: it may be a secret.
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"{type(name).__name__} and {type(value).__name__}"
            raise TypeError(f"environment[{name!r:.100}] is of {kinds}: expected str and str")
        if not name or "=" in name or not _can_be_passed(name + value):
            raise ValueError(
                f"environment[{name!r:.100}] cannot be passed on: expected a name without `=`, and"
                " both the name and the value in Unicode without NUL"
            )


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _can_be_passed(text: str) -> bool:
    """Whether the system takes a text, as an argument, a variable or a path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _wrong(kind: type[Exception], name: str, found: object, expected: str) -> Exception:
    return kind(f"{name} is {found!r:.100}: expected {expected}")
