"""Examines Python source without running it: whether it compiles, and which calls are risky.

Compiling a source may take minutes or all memory, so the agent does not do it itself. The text of
this module is sent to a helper process (`agent.reload.worker`), so it imports the standard library
only.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from importlib.util import decode_source
from typing import NamedTuple

#: The most calls that are reported of one source; the others are counted.
MAX_CALLS = 100
#: The longest message of the compiler, in characters. It may quote a name of any length.
MAX_WHY = 200

_EXITS = frozenset({"sys.exit", "os._exit", "os.abort", "exit", "quit", "SystemExit"})
_BLOCKS = frozenset(
    {
        *("os.system", "os.popen", "os.wait", "os.waitpid", "os.spawnl", "os.spawnv"),
        *("subprocess.run", "subprocess.call", "subprocess.check_call"),
        *("subprocess.check_output", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("commands.getoutput", "commands.getstatusoutput"),
        *("time.sleep", "input", "raw_input", "signal.pause", "select.select"),
        *("urllib.request.urlopen", "urllib2.urlopen", "urllib.urlopen"),
        *("requests.get", "requests.post", "requests.put", "requests.request"),
    }
)


class CompileError(NamedTuple):
    """Why a source does not compile. Line and column count from 1; both may be None."""

    line: int | None
    column: int | None
    why: str


class RiskyCall(NamedTuple):
    """A call that ends the process that runs it (code `exits`) or makes it wait (`blocks`).

    `line` and `column` count from 1, columns in code points.
    """

    code: str
    name: str
    line: int
    column: int


class Report(NamedTuple):
    """What was found in one source. If it has an error, it has no calls.

    `calls` are the first MAX_CALLS in the order of the text, `more` is the number of the others.
    """

    error: CompileError | None
    calls: tuple[RiskyCall, ...]
    more: int


def examine(source: bytes) -> Report:
    """Compile a source without running it, and look for risky calls in its syntax tree.

    Takes any bytes. Raises MemoryError if the source needs more memory than there is, or is nested
    deeper than the parser can follow.
    """
    try:
        text = decode_source(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            compile(tree, "callback", "exec", dont_inherit=True)
    except (SyntaxError, UnicodeDecodeError, ValueError, LookupError) as error:
        line = getattr(error, "lineno", None) or None
        column = max(getattr(error, "offset", None) or 1, 1) if line else None
        why = getattr(error, "msg", None) or str(error)
        return Report(CompileError(line, column, _shortened(why)), (), 0)
    except (RecursionError, OverflowError) as error:
        return Report(CompileError(None, None, too_complex(error)), (), 0)
    calls = sorted(_risky_calls(tree))
    return Report(None, tuple(_with_columns(calls[:MAX_CALLS], text)), len(calls[MAX_CALLS:]))


def too_complex(error: Exception) -> str:
    """The reason to report if the compiler gave up with this error."""
    return f"too complex to compile ({type(error).__name__})"


def _shortened(text: str) -> str:
    # Some encodings decode to surrogates, which JSON cannot carry.
    text = text[: 2 * MAX_WHY].encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_WHY else f"{text[: MAX_WHY - 3]}..."


def _with_columns(calls: list[tuple[int, int, str, str]], text: str) -> Iterator[RiskyCall]:
    """The calls, with byte offsets converted to columns.

    A line may have megabytes and many calls, so each line is encoded once.
    """
    lines = text.split("\n")
    number, encoded = 0, b""
    for line, offset, code, name in calls:
        if line != number:
            number = line
            encoded = (
                lines[line - 1].encode("utf-8", "surrogatepass") if line <= len(lines) else b""
            )
        column = len(encoded[:offset].decode("utf-8", "replace")) + 1
        yield RiskyCall(code, name, line, column)


def _risky_calls(tree: ast.Module) -> Iterator[tuple[int, int, str, str]]:
    """Line, byte offset, code and name of each risky call."""
    imported = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if _full_name(raised, imported) == "SystemExit":
                yield node.lineno, node.col_offset, "exits", "SystemExit"
        elif isinstance(node, ast.Call):
            name = _full_name(node.func, imported)
            if name in _EXITS and name != "SystemExit":
                yield node.lineno, node.col_offset, "exits", name
            elif name in _BLOCKS:
                yield node.lineno, node.col_offset, "blocks", name


def _imported(tree: ast.Module) -> dict[str, str]:
    """The full name of each imported name: `os` for the `o` of `import os as o`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _full_name(node: ast.expr, imported: dict[str, str]) -> str | None:
    """The dotted name that an expression is, such as `os.system`; None if it is not one."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    parts.append(imported.get(node.id, node.id))
    return ".".join(reversed(parts))
