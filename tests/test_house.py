"""The rules of the layout: layers import downwards only, pure layers do not reach the world."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "agent"

#: What each folder, or file at the top of the package, may import of the others. The folders are
#: the layers: data flows from core to cli, and nothing calls back upwards.
LAYERS = {
    "core": set(),
    "timing": set(),
    "rpc": {"core"},
    "settings": {"core"},
    "disk": {"core"},
    "reload": {"core", "timing", "rpc", "disk", "settings"},
    "server": {"__init__", "core", "timing", "rpc", "settings", "reload"},
    "check": {"core", "timing", "disk", "settings", "reload"},
    "diff": {"core", "rpc", "check"},
    "daemon": {"core", "timing", "rpc", "disk", "settings", "reload", "server"},
    "cli": {
        *("__init__", "core", "timing", "settings", "reload", "check", "diff", "daemon"),
        *("client", "runner", "slurm", "manual"),
    },
    "client": set(),
    "runner": {"core", "client"},
    "slurm": {"core", "disk", "client", "runner"},
    "aio": {"client"},
    "mirror": {"core", "rpc", "client"},
    "manual": set(),
    "__main__": {"cli", "daemon"},
    "__init__": set(),
}
#: Folders of plain functions and frozen values: no files, clocks, sockets, processes or logging.
PURE = {"core": set(), "rpc": {"msgspec", "jsonschema"}}

#: Modules that reach the world outside: files, sockets, clocks, processes, logs, chance.
WORLD = {
    *("asyncio", "concurrent", "contextvars", "ctypes", "datetime", "fcntl", "fileinput"),
    *("glob", "http", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "platform"),
    *("posix", "pwd", "random", "resource", "runpy", "sched", "secrets", "select", "selectors"),
    *("shutil", "signal", "socket", "socketserver", "ssl", "subprocess", "tempfile", "threading"),
    *("time", "urllib"),
}
#: Built-in functions that do the same, and those that import without saying so.
WORLDLY = {"open", "print", "input", "exec", "eval", "__import__", "import_module"}

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
    *("agent", "tests", "fixtures", "scripts"),
}


@functools.cache
def house() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below `agent`, parsed."""
    parsed = {}
    for file in sorted(AGENT.rglob("*.py")):
        name = ".".join(file.relative_to(AGENT).with_suffix("").parts).removesuffix(".__init__")
        parsed[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return parsed


@functools.cache
def imports(name: str) -> frozenset[str]:
    """The full names of all that a module imports, at its top or inside a function."""
    package = ["agent", *name.split(".")]
    if not (AGENT / name.replace(".", "/")).is_dir():
        package.pop()
    found = set()
    for node in ast.walk(house()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return frozenset(found)


def uses(name: str) -> set[str]:
    """The rooms of the house that a module imports; `__init__` for the package itself."""
    used = set()
    for full in imports(name):
        if full != "agent" and not full.startswith("agent."):
            continue
        parts = full.split(".")[1:]
        while parts and ".".join(parts) not in house():
            parts.pop()
        used.add(".".join(parts) or "__init__")
    return used


def others(name: str) -> set[str]:
    """What a module imports that is neither of the house nor of the standard library."""
    tops = {full.split(".")[0] for full in imports(name)}
    return tops - {"agent"} - set(sys.stdlib_module_names)


def layer(name: str) -> str:
    return name.split(".")[0]


def test_each_layer_is_there() -> None:
    assert {layer(name) for name in house()} == set(LAYERS)


def test_a_module_imports_lower_layers_only() -> None:
    upwards = {
        name: {layer(used) for used in uses(name)} - {layer(name)} - LAYERS[layer(name)]
        for name in house()
    }
    assert {name: used for name, used in upwards.items() if used} == {}


def test_a_pure_module_does_not_reach_the_world() -> None:
    reached = {}
    for name, tree in house().items():
        if layer(name) in PURE:
            named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            named |= {full.split(".")[-1] for full in imports(name)}
            worlds = {full for full in imports(name) if full.split(".")[0] in WORLD}
            reached[name] = worlds | (named & WORLDLY) | (others(name) - PURE[layer(name)])
    assert {layer(name) for name in reached} == set(PURE)
    assert {name: found for name, found in reached.items() if found} == {}


def test_there_are_no_circles() -> None:
    # Raises graphlib.CycleError, which names the circle.
    TopologicalSorter({name: uses(name) for name in house()}).prepare()


def test_the_client_can_be_copied_into_any_python() -> None:
    assert uses("client") == set()
    assert others("client") == set()


def test_the_commands_have_no_other_way_in_than_the_client() -> None:
    """They speak to the agent as a stranger could: the pipe has no private door."""
    commands = [name for name in house() if layer(name) == "cli"]
    assert "client" in set().union(*(uses(name) for name in commands))
    for name in commands:
        assert "socket" not in {full.split(".")[0] for full in imports(name)}


#: Constants of the agent that a test changes, and why they are not handed in.
CHANGED = {
    "tests/core/test_match.py: _TRY": "chooses between two ways to one result; each is forced",
    "tests/core/test_planning.py: _EVENTS": "chooses between two ways; each is forced",
    "tests/core/test_planning.py: _EVENT_OF_WORDS": "chooses between two ways; each is forced",
    "tests/faults/test_check_not_known.py: _MODULES": "the program of a helper that goes wrong",
    "tests/runner/conftest.py: _KILL_SECONDS": "a busy machine; what runs callbacks takes no times",
    "tests/runner/test_killed.py: _KILL_SECONDS": "one that cannot be killed is waited for so long",
    "tests/server/test_limits.py: _MODULES": "the program of a helper that reports its limits",
    "tests/test_client.py: MAX_ANSWER_BYTES": "users copy the client, and it has no such option",
}


def changed_constants(tree: ast.Module) -> set[str]:
    """The names of the agent's constants that a file assigns to: by an assignment, by `setattr`, or
    in the text of a program."""
    bound = {
        alias.asname or alias.name.split(".")[-1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if f"{getattr(node, 'module', '')}.{alias.name}".lstrip(".").startswith("agent")
    }
    changed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            owner, name = node.args[0], ast.unparse(node.args[-2]).strip("'")
        else:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                changed |= set(re.findall(r"\w\.(\w+) *=(?!=)", node.value))
            continue
        if isinstance(owner, ast.Constant) and str(owner.value).startswith("agent."):
            changed.add(name.split(".")[-1])
        elif isinstance(owner, ast.Name) and owner.id in bound:
            changed.add(name)
    return {name for name in changed if re.fullmatch(r"_?[A-Z][A-Z0-9_]{2,}", name)}


def test_no_test_changes_a_constant() -> None:
    """A test that needs another time or limit hands it in (`agent/timing.py`, or an argument)."""
    found = set()
    for file in (ROOT / "tests").rglob("*.py"):
        names = changed_constants(ast.parse(file.read_text(encoding="utf-8")))
        found |= {f"{file.relative_to(ROOT)}: {name}" for name in names}
    assert found == set(CHANGED)


#: Modules that rename files, and what for.
RENAMES = {
    "disk.whole_file": "writes every file that a reader may find",
    "reload.last_good": "a unit that has reached the disk takes the place of the last one",
    "slurm.spool": "moves what is not an event",
}


def test_files_are_written_by_rename_in_one_place() -> None:
    calls = {
        name
        for name, tree in house().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("os", "rename"), ("os", "replace"), ("shutil", "move")}
    }
    assert calls == set(RENAMES)


def distribution(requirement: str) -> str:
    """The normalised name of what a requirement asks for."""
    name = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {distribution(line) for line in project["dependencies"]}
    used = {distribution(one) for name in house() for one in others(name)}
    assert used == declared


def test_every_dependency_is_pinned_and_by_version_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    lines = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", pin)] == []
    assert {distribution(line) for line in wanted} <= {distribution(pin) for pin in pins}


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "scripts" / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    lowest = {
        distribution(line): re.search(r">=([0-9.]+)", line) for line in project["dependencies"]
    }
    assert pins.keys() == lowest.keys()
    # scripts/test-lowest compares the names as they are written.
    others = (ROOT / "scripts" / "constraints.txt").read_text().lower()
    assert [name for name in pins if f"\n{name}==" not in others] == []
    for name, bound in lowest.items():
        assert bound is not None, name
        assert re.fullmatch(rf"{re.escape(bound[1])}(\.0)*", pins[name]), name


def committed() -> list[Path]:
    """The files that are in the repository, or would be with the next commit."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    if listed.returncode != 0:
        pytest.skip(f"this is no git checkout: {listed.stderr.decode(errors='replace').strip()}")
    names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for path in (ROOT / name for name in names) if path.is_file()]


def test_the_top_level_holds_what_the_plan_allows() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in committed()}
    assert {top for top in tops - TOP_LEVEL if not top.startswith(".")} == set()


def test_no_file_says_where_packages_come_from() -> None:
    """An install uses the registry that its machine is set up for, and no other."""
    # Put together here, so that this file does not hold what it looks for.
    hosts = [
        *("py" + "pi.org", "python" + "hosted", "test.py" + "pi", "npm" + "js.", "crates" + ".io"),
        *("proxy.go" + "lang", "anaconda" + ".org", "dev" + "pi", "arti" + "factory"),
    ]
    locks = [
        *("index" + "-url", "index" + "_url", "find" + "-links", "trusted" + "-host"),
        *("--ha" + "sh=", r"\s@\s+(?:git\+)?http" + "s?://", "resolved" + '":\\s*"http'),
    ]
    pattern = re.compile("|".join([*map(re.escape, hosts), *locks]).encode(), re.IGNORECASE)
    assert [str(p.relative_to(ROOT)) for p in committed() if pattern.search(p.read_bytes())] == []


def test_what_begins_as_a_script_can_be_run() -> None:
    folders = (ROOT / "scripts", ROOT / ".ci")
    scripts = [p for p in committed() if p.parent in folders and p.read_bytes()[:2] == b"#!"]
    assert scripts
    assert [p.name for p in scripts if not os.access(p, os.X_OK)] == []
