"""Finds mistakes in the file names of callbacks.conf, and in lines that have no `=`.

A file name may be nearly any text. What is found in one that could exist is reported only if there
is no such file.
"""

from __future__ import annotations

import re

from agent.core.diagnostic import Edit, Problem
from agent.core.languages import EXTENSIONS, language_of
from agent.core.likely import likely_event
from agent.core.quoting import shown
from agent.core.typography import invisible, outer_quotes, quoted_part

#: How the hint of a line begins that is to go.
REMOVE = "remove this line"

_COMMENT = re.compile(r"(?://+|--+|;+|/\*+|<!--+|%+|(?i:rem|dnl)(?=\s))\s*")
#: What git writes around the two sides of a conflict.
_CONFLICT = re.compile(r"(?:<{7}|>{7}|\|{7})(?:\s.*)?|={7}", re.DOTALL)
#: The marks of lists, mails, patches and terminals, and the numbers that `cat -n` and `grep` write.
_BULLET = re.compile(
    r"(?:[-*+>|$\u2022\u2013]\s*)*(?:[-*+>|$\u2022\u2013]\s+|>)"
    r"|[0-9]+(?:[.:)]\s*|\s+)|callbacks\.conf:(?:[0-9]+:)?\s*"
)
#: What is around a name in other formats, and in none that is a name's.
_AROUND = " \t*,;()[]{}<>"
#: Commands that people write before a file's name.
_COMMAND = re.compile(
    r"(?:(?:/\S*/)?(?:env|python[0-9.]*|perl[0-9.]*|sh|bash)|export|set|setenv|let|exec|run|call)\s+",
    re.IGNORECASE,
)
#: What remains before the `=` of another assignment operator.
_OPERATOR = ":+?~<>|^-"
_EXTENSION = re.compile(r"\.(?:py|pl|qcb)(?![\w.])")
#: What cannot be in the name of a file that is found within a text.
_NOT_IN_FILE = frozenset("\"'=:,;|<>()[]{}")
#: What other formats have between a name and a value.
_SEPARATOR = re.compile(r"[\"'\u201d]?\s*(?:[:=]?-*>|:=|::?|[,;|\t\uff1d\u2192]|)\s*")
_DIRECTIVE = re.compile(r"[!@#$.]?(?:include|import|source|use|require|load)\b", re.IGNORECASE)
_PUNCTUATION = re.compile(r"[{}()\[\],;.-]+")
_CASES = {extension.upper(): extension for extension in EXTENSIONS}


def in_name(name: str, start: int) -> tuple[str, str, tuple[Edit, ...]] | None:
    """What is wrong with a name that no file of the directory has, or can have.

    `start` is its offset in the line. Returns message, hint, and edits of the line; None if nothing
    is found.
    """
    end = start + len(name)
    if conflict := in_conflict(name):
        return conflict
    comment = _COMMENT.match(name)
    if comment:
        mark = quoted_part(comment[0].strip())
        message = f"`{mark}` does not begin a comment: `{quoted_part(name)}` is read as a file name"
        return message, "begin the comment with #", (Edit(start, start + comment.end(), "# "),)
    if (found := _BULLET.match(name)) or (found := _COMMAND.match(name)):
        words = quoted_part(found[0].strip())
        message = f"`{words}` is read as part of the file name: a line is FILE = TRIGGER"
        return message, "remove it", (Edit(start, start + found.end(), ""),)
    if edits := outer_quotes(name, start):
        message = f"the quotes are read as part of the file name: {shown(name)}"
        return message, "remove them", edits
    if edits := invisible(name, start):
        message = f"the file name has a character that cannot be seen: {shown(name)}"
        return message, "remove it", edits
    if name.endswith("!"):
        message = "`!=` is not an operator here: a trigger cannot be negated"
        hint = "write =, and the events that it is to fire on"
        return message, hint, (Edit(end - 1, end, ""), Edit(end + 1, end + 1, " !"))
    bare = name.rstrip(_OPERATOR)
    if bare and bare != name:
        mark = quoted_part(name[len(bare) :])
        message = f"`{mark}=` is not an operator here: the file's name ends before it"
        return message, "write = alone", (Edit(start + len(bare.rstrip()), end, " "),)
    if "/" in name or "\\" in name:
        return _path(name, start)
    bare = name.strip(_AROUND)
    if bare != name and _files(bare) == [(0, len(bare))]:
        at = start + name.index(bare)
        message = f"the punctuation is read as part of the file name: {shown(name)}"
        return message, "remove it", (Edit(start, at, ""), Edit(at + len(bare), end, ""))
    if len(_files(name)) > 1:
        message = f"one line names one file; {shown(name)} is read as one name"
        return message, "write a line for each file", ()
    first, *arguments = name.split(None, 1)
    if arguments and language_of(first):
        message = f"`{quoted_part(arguments[0])}` is read as part of the file name"
        hint = "remove it: a callback takes no arguments"
        return message, hint, (Edit(start + len(first), end, ""),)
    return None


def in_conflict(text: str) -> tuple[str, str, tuple[Edit, ...]] | None:
    """What is wrong with a line, or with a name, that is one of git's conflict markers."""
    if _CONFLICT.fullmatch(text) is None:
        return None
    message = f"git left a conflict here: `{quoted_part(text)}` is one of its markers"
    return message, "keep the lines of one side, and remove those of the other and the markers", ()


def _path(name: str, start: int) -> tuple[str, str, tuple[Edit, ...]] | None:
    """What is wrong with a name that is a path."""
    at = max(name.rfind("/"), name.rfind("\\")) + 1
    if language_of(name[at:]) is None:
        return None
    message = f"{shown(name)} is a path; a callback's file is in the directory of callbacks.conf"
    hint = "write the file's name alone, and keep the file in this directory"
    return message, hint, (Edit(start, start + at, ""),)


def bad_name(name: str, start: int) -> Problem | None:
    """Why a name cannot be that of a callback's file; None if it can.

    `start` is its offset in the line.
    """
    code = "bad-name"
    message = " is not a plain file name"
    hint = "write the plain name of a file in the same directory as callbacks.conf"
    edits: tuple[Edit, ...] = ()
    if not ("/" in name or "\\" in name or name in (".", "..") or "\0" in name):
        if language_of(name) is not None:
            return None
        code = "other-extension"
        dot = name.rfind(".")
        message = " does not end in .py, .pl or .qcb, so it names no language"
        hint = "name a callback's file; its language follows from the end of its name"
        if dot >= 0 and name[dot:].upper() in _CASES:
            right = shown(name[:dot] + name[dot:].lower())
            message = " does not end in .py, .pl or .qcb: case counts"
            hint = f"rename the file to {right}, and write that name"
    message = shown(name) + message
    if found := in_name(name, start):
        message, hint, edits = found
    # The operator `!=` is part of the mistake.
    length = len(name) + 2 * name.endswith("!")
    return Problem(code, message, hint, None, start + 1, None, length, edits)


def swapped(name: str, value: str, start: int, end: int) -> Problem | None:
    """The error about a line with the trigger before the `=`, and the file after it.

    `start` and `end` are the offsets of name and value in the line.
    """
    file = value.strip("\"'")
    if _files(file) != [(0, len(file))] or language_of(name) is not None:
        return None
    if not likely_event(name.split(None, 1)[0].strip("\"'(")):
        return None
    message = "the sides are swapped: the file comes before the `=`, its trigger after it"
    hint = "write file = trigger"
    edit = Edit(start, end, f"{file} = {name}")
    return Problem("other-extension", message, hint, None, start + 1, None, len(name), (edit,))


# Lines without `=` -------------------------------------------------------------------------------


def without_equals(line: str) -> Problem:
    """The error about a line that has text and no `=` before a comment."""
    text = line.partition("#")[0].strip()
    start = line.index(text)
    if not text.strip("\0"):
        message = "this line holds nothing but NUL bytes"
        hint = "remove it, and look for lost lines: a power failure can leave such a file"
        return Problem("no-equals", message, hint, None, start + 1, None, len(text))
    message, hint, edits = _without_equals(text, start)
    length = len(text.split(None, 1)[0])
    return Problem("no-equals", message, hint, None, start + 1, None, length, edits)


def _without_equals(text: str, start: int) -> tuple[str, str, tuple[Edit, ...]]:
    end = start + len(text)
    quoted = quoted_part(text)
    if conflict := in_conflict(text):
        return conflict
    if edits := invisible(text[:1], start):
        return f"the line begins with a character that cannot be seen: {quoted}", "remove it", edits
    if _PUNCTUATION.fullmatch(text):
        return f"`{quoted}` is not a setting: each line is FILE = TRIGGER", REMOVE, ()
    if text.startswith("[") and text.endswith("]"):
        return f"there are no sections such as {quoted}: each line is FILE = TRIGGER", REMOVE, ()
    if directive := _DIRECTIVE.match(text):
        message = f"there is no `{directive[0]}`: a directory has one callbacks.conf"
        return message, "write the lines of the other file in its place", ()
    files = _files(text)
    if not files:
        return _without_file(text, start)
    file_start, file_end = files[0]
    file = text[file_start:file_end]
    before, after = text[:file_start].strip("\"'\u201c \t:,;=->"), text[file_end:]
    separator = _SEPARATOR.match(after)
    assert separator is not None
    value = after[separator.end() :]
    mark = quoted_part(separator[0].strip("\"' \t"))
    if "-" in value and likely_event(value.lstrip("\"'({[!").split(None, 1)[0]):
        at = start + file_end
        edit = Edit(at, at + separator.end(), " = ")
        lead = (Edit(start, start + file_start, ""),) if file_start else ()
        message = f"there is no `=` between {shown(file)} and its trigger"
        if mark:
            message = f"`{mark}` is where the `=` belongs, between {shown(file)} and its trigger"
        return message, "write = in its place", (*lead, edit)
    if before and likely_event(before.split(None, 1)[0]) and not value:
        message = "the sides are swapped, and there is no `=` between them"
        # Words between the two may belong to the event or not.
        is_whole = text[file_start - 1] in ":,;=->" or len(before.split()) == 1
        edits = (Edit(start, end, f"{file} = {before}"),) if is_whole else ()
        return message, "write file = trigger", edits
    comment = _COMMENT.match(text)
    if comment:
        return _comment_mark(comment, start)
    if not value and not before:
        message = f"{quoted} has no trigger: nothing says when it runs"
        return message, f"write after it when it runs, such as {file} = failed-job-self", ()
    message = f"there is no `=` in `{quoted}`: each line is FILE = TRIGGER"
    return message, "write it so, or a # before it if it is a comment", ()


def _without_file(text: str, start: int) -> tuple[str, str, tuple[Edit, ...]]:
    quoted = quoted_part(text)
    if comment := _COMMENT.match(text):
        return _comment_mark(comment, start)
    if likely_event(text.split(None, 1)[0].lstrip("(&|")) or text.startswith(("&&", "||")):
        message = f"`{quoted}` names no file that runs: each line is FILE = TRIGGER"
        return message, "write the file's name and = before it", ()
    message = f"there is no `=` in `{quoted}`: each line is FILE = TRIGGER"
    if any(map(likely_event, text.split())):
        return message, "write it so, or a # before it if it is a comment", ()
    hint = "write a # before it if it is a comment"
    return message, hint, (Edit(start, start, "# "),)


def _files(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends that ends like the name of a callback's file."""
    found = []
    floor = 0
    for extension in _EXTENSION.finditer(text):
        start = extension.start()
        while start > floor and not (text[start - 1].isspace() or text[start - 1] in _NOT_IN_FILE):
            start -= 1
        if start < extension.start():
            found.append((start, extension.end()))
        floor = extension.end()
    return found


def _comment_mark(comment: re.Match[str], start: int) -> tuple[str, str, tuple[Edit, ...]]:
    mark = quoted_part(comment[0].strip())
    message = f"`{mark}` does not begin a comment"
    return message, "begin the comment with #", (Edit(start, start + comment.end(), "# "),)
