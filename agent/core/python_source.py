"""Examines Python source without running it: whether it compiles, and which calls are risky.

Compiling a source may take minutes or all memory, so the agent does not do it itself. The text of
this module is sent to a helper process (`agent.reload.check_program`), so it imports the standard
library only.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from importlib.util import decode_source
from typing import NamedTuple

#: The most calls that are reported of one source; the others are counted.
MAX_CALLS = 100
#: The longest message of the compiler, in characters. It may quote a name of any length.
MAX_WHY = 200

_EXITS = frozenset({"sys.exit", "os._exit", "os.abort", "exit", "quit"})

_SPAWN = frozenset(f"os.spawn{how}" for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe"))
_WAIT = frozenset({"os.waitpid", "os.wait3", "os.wait4", "os.waitid"})
#: The names in arguments that make a call return at once.
_NO_WAIT = dict.fromkeys(_WAIT, ("WNOHANG",)) | dict.fromkeys(_SPAWN, ("P_NOWAIT", "P_NOWAITO"))
#: Clients of a database server. sqlite3 is not among them: it opens a file.
_DATABASES = (
    *("MySQLdb", "pymysql", "mysql.connector", "mariadb", "psycopg", "psycopg2", "pgdb", "pg8000"),
    *("cx_Oracle", "oracledb", "pyodbc", "pymssql"),
)
#: HTTP verbs as the functions of requests, and the methods of its sessions.
_REQUESTS = ("get", "post", "put", "patch", "delete", "head", "options", "request")
#: Calls that make their process wait. Of the classes, the call itself or the next one connects.
_BLOCKS = frozenset(
    {
        *("os.system", "os.popen", "os.wait", *_WAIT, *_SPAWN),
        *("subprocess.run", "subprocess.call", "subprocess.check_call"),
        *("subprocess.check_output", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("commands.getoutput", "commands.getstatusoutput"),
        *("time.sleep", "input", "raw_input", "signal.pause", "select.select"),
        *("smtplib.SMTP", "smtplib.SMTP_SSL", "smtplib.LMTP"),
        *("ftplib.FTP", "ftplib.FTP_TLS", "socket.create_connection"),
        *("http.client.HTTPConnection", "http.client.HTTPSConnection"),
        *("httplib.HTTPConnection", "httplib.HTTPSConnection"),
        *("urllib.request.urlopen", "urllib.request.urlretrieve"),
        *("urllib2.urlopen", "urllib.urlopen", "urllib.urlretrieve", "urllib3.request"),
        *(f"requests.{verb}" for verb in _REQUESTS),
        *(f"{module}.connect" for module in _DATABASES),
        *("MySQLdb.Connect", "MySQLdb.Connection", "pymongo.MongoClient"),
    }
)
_SESSION = frozenset({*_REQUESTS, "send"})
_OPENER = frozenset({"open"})
_PROCESS = "subprocess.Popen"
#: Calls that do not block, and the methods of their results that do.
_MAKERS = {
    _PROCESS: frozenset(
        {
            *("wait", "communicate"),
            *(f"{pipe}.{read}" for pipe in ("stdout", "stderr") for read in ("read", "readline")),
            *("stdout.readlines", "stderr.readlines"),
        }
    ),
    "socket.socket": frozenset({"connect", "connect_ex", "accept"}),
    "requests.Session": _SESSION,
    "requests.session": _SESSION,
    "urllib.request.build_opener": _OPENER,
    "urllib2.build_opener": _OPENER,
    "urllib3.PoolManager": frozenset({"request", "urlopen"}),
    "sqlalchemy.create_engine": frozenset({"begin", "connect", "execute"}),
}


#: A line that git writes around the two sides of a conflict.
_CONFLICT = re.compile(r"(?:<{7}|={7}|>{7}|\|{7})(?!\S)")


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
        if _CONFLICT.match(getattr(error, "text", None) or ""):
            why = "git left a conflict here: keep the lines of one side"
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


class _Scope:
    """The names that one function, class or module binds, imports apart.

    A name is bound to the full name of the maker whose result it always is; else to None.
    """

    __slots__ = ("bound", "holder", "is_class", "parent")

    def __init__(self, around: _Scope | None = None, is_class: bool = False) -> None:
        self.bound: dict[str, str | None] = {}
        self.is_class = is_class
        #: Where names are looked up that this scope does not bind. Never a class: its methods do
        #: not see its names.
        self.parent: _Scope | None = (
            around.parent if around is not None and around.is_class else around
        )
        #: Where attributes such as `self.process` are bound: the class, if there is one.
        self.holder: _Scope = self if is_class or around is None else around.holder

    def bind(self, name: str, maker: str | None) -> None:
        scope = self.holder if "." in name else self
        same = scope.bound.setdefault(name, maker)
        if same != maker:
            scope.bound[name] = None

    def find(self, name: str) -> _Scope | None:
        """The scope that binds the name, None if none does."""
        scope: _Scope | None = self.holder if "." in name else self
        while scope is not None and name not in scope.bound:
            scope = scope.parent
        return scope

    def maker(self, name: str) -> str | None:
        """The maker whose result the name is."""
        scope = self.find(name)
        return scope.bound[name] if scope is not None else None


def _risky_calls(tree: ast.Module) -> Iterator[tuple[int, int, str, str]]:
    """Line, byte offset, code and name of each risky call."""
    names = _Names(tree)
    for node, scope in names.places:
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if names.full_name(raised, scope) == "SystemExit":
                yield node.lineno, node.col_offset, "exits", "SystemExit"
        elif isinstance(node, ast.Call):
            if found := _risk_of_call(node, scope, names):
                yield node.lineno, node.col_offset, *found
        elif isinstance(node, ast.withitem):
            expression = node.context_expr
            # Leaving the block waits until the process ends.
            if names.maker(expression, scope) == _PROCESS:
                yield expression.lineno, expression.col_offset, "blocks", f"with {_PROCESS}"


def _risk_of_call(call: ast.Call, scope: _Scope, names: _Names) -> tuple[str, str] | None:
    """Code and name of a call that is risky, else None."""
    name = names.full_name(call.func, scope)
    if name in _EXITS:
        return "exits", name
    if name in _BLOCKS:
        return None if _returns_at_once(name, call) else ("blocks", name)
    made, method = names.made_method(call.func, scope)
    if made is not None and method in _MAKERS[made]:
        return "blocks", f"{made}.{method}"
    return None


def _returns_at_once(name: str, call: ast.Call) -> bool:
    """Whether the arguments of a call say that it is to return at once."""
    if name not in _NO_WAIT:
        return False
    parts = (part for argument in call.args for part in ast.walk(argument))
    return any(getattr(p, "attr", getattr(p, "id", None)) in _NO_WAIT[name] for p in parts)


class _Names:
    """What the names of one source mean, and every node with its scope."""

    def __init__(self, tree: ast.Module) -> None:
        self._imported = _imported(tree)
        #: Each node, parents first, with the scope in which it is evaluated.
        self.places: list[tuple[ast.AST, _Scope]] = []
        #: By the id of a node that a maker's result is bound to, the maker.
        self._targets: dict[int, str | None] = {}
        todo: list[tuple[ast.AST, _Scope]] = [(tree, _Scope())]
        while todo:
            node, scope = todo.pop()
            self.places.append((node, scope))
            inner = self._bind(node, scope)
            todo += ((child, inner) for child in ast.iter_child_nodes(node))

    def full_name(self, node: ast.expr, scope: _Scope) -> str | None:
        """The dotted name of what an expression is, such as `os.system`; None if it is not one.

        A name that is not imported is one of Python's own, unless the source binds it.
        """
        root, rest = _chain(node)
        if not isinstance(root, ast.Name):
            return None
        binds, first = scope.find(root.id), self._imported.get(root.id)
        # A module may bind a name in place of an import that fails, a function has its own.
        if binds is not None and (first is None or binds.parent is not None):
            return None
        if first is None:
            return None if rest else root.id
        return f"{first}.{rest}" if rest else first

    def maker(self, node: ast.expr | None, scope: _Scope) -> str | None:
        """The maker of which an expression is a call, None if of none."""
        name = self.full_name(node.func, scope) if isinstance(node, ast.Call) else None
        return name if name in _MAKERS else None

    def made_method(self, node: ast.expr, scope: _Scope) -> tuple[str | None, str]:
        """The maker of an object, and the name of the method of it that an expression is."""
        root, rest = _chain(node)
        if not isinstance(root, ast.Name):
            return self.maker(root, scope), rest
        made = scope.maker(root.id)
        if made is None and "." in rest:
            attribute, _, rest = rest.partition(".")
            made = scope.maker(f"{root.id}.{attribute}")
        return made, rest

    def _bind(self, node: ast.AST, scope: _Scope) -> _Scope:
        """Bind what a node binds. Returns the scope of its parts."""
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            self._assign(node, scope)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            made = self.maker(node.context_expr, scope)
            # The wait at the end of the block is reported. Those inside it are the same mistake.
            self._targets[id(node.optional_vars)] = None if made == _PROCESS else made
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._bind_target(node, node.id, scope)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name):
                self._bind_target(node, f"{node.value.id}.{node.attr}", scope)
        elif isinstance(node, ast.arg):
            scope.bind(node.arg, None)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            scope.bind(node.name, None)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.bind(node.name, None)
            return _Scope(scope, isinstance(node, ast.ClassDef))
        elif isinstance(node, ast.Lambda):
            return _Scope(scope)
        return scope

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.NamedExpr, scope: _Scope) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        nothing = isinstance(node.value, ast.Constant) and node.value.value is None
        made = "" if node.value is None or nothing else self.maker(node.value, scope)
        for target in targets:
            self._targets[id(target)] = made

    def _bind_target(self, node: ast.expr, name: str, scope: _Scope) -> None:
        made = self._targets.pop(id(node), None)
        # None, and a mere annotation, say nothing about what the name is later.
        if made != "":
            scope.bind(name, made)


def _chain(node: ast.expr) -> tuple[ast.expr, str]:
    """The expression without the attributes at its end, and these, with dots between them."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return node, ".".join(reversed(parts))


def _imported(tree: ast.Module) -> dict[str, str]:
    """The full name of each imported name: `os` for the `o` of `import os as o`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
                else:
                    first = alias.name.partition(".")[0]
                    names.setdefault(first, first)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if alias.name == "*":
                    names |= _of_star(node.module)
                else:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _of_star(module: str) -> dict[str, str]:
    """The names of the risky calls and makers that `from module import *` imports."""
    known = (name.rpartition(".") for name in (*_EXITS, *_BLOCKS, *_MAKERS))
    return {last: f"{module}.{last}" for first, _, last in known if first == module}
