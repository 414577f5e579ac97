"""The README and the page `operations` install, upgrade and remove the agent as they are pasted.

In a home of its own, without a network: what the agent needs is taken from the environment of the
tests. The folders of the system, of which `operations` speaks, lie below a folder of the test.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import MANUAL, ROOT, blocks, section

#: Seconds for one script on a busy machine: making an environment takes some seconds.
PATIENCE = 300
#: What of the environment of the tests the new one must not find.
HIDDEN = re.compile(r"_?_?(callback_agent|editable_impl|pip[-_.]|pip$|setuptools|pycache)|.*\.pth$")

pytestmark = [
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(sys.platform != "linux", reason="the commands are those of Linux"),
    pytest.mark.skipif(
        importlib.util.find_spec("ensurepip") is None, reason="Python's venv module is incomplete"
    ),
]


class Machine:
    """A machine with a checkout, an empty home and its own folders of the system."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.home = folder / "home"
        self.checkout = self.home / "callback-agent"
        programs, packages = folder / "programs", folder / "packages"
        for path in (self.home, programs, packages, folder / "etc" / "systemd" / "system"):
            path.mkdir(parents=True)
        for name in ("etc/logrotate.d", "etc/bash_completion.d", "usr/local/bin"):
            (folder / name).mkdir(parents=True)
        (programs / "python3").symlink_to(os.path.realpath(sys.executable))
        systemctl = programs / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >> {folder}/systemctl\n')
        systemctl.chmod(0o755)
        site = Path(pytest.__file__).parents[1]
        for entry in site.iterdir():
            if not HIDDEN.match(entry.name):
                (packages / entry.name).symlink_to(entry)
        self._copy_checkout()
        self.environ = {
            "HOME": str(self.home),
            "PATH": f"{programs}:{folder}/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(packages),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "false",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def _copy_checkout(self) -> None:
        for name in ("agent", "scripts"):
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / name, self.checkout / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
            shutil.copy(ROOT / name, self.checkout)

    def run(self, script: str) -> str:
        """What a script prints, errors included, with the folders of the system below `root`."""
        here = re.sub(r"(?<![\w/.~])/(opt|etc|var|usr/local)/", rf"{self.root}/\1/", script)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eu", "-c", here],
            cwd=self.checkout,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{here}\n{done.stdout}"
        return done.stdout

    def files(self) -> set[str]:
        """The files and links that are neither of the checkout nor of the test itself."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            path = Path(folder)
            if path == self.root:
                folders[:] = ["home", "opt", "etc", "var", "usr"]
            if path == self.home:
                folders[:] = [name for name in folders if name not in (".cache", "callback-agent")]
            links = [name for name in folders if (path / name).is_symlink()]
            found |= {str((path / name).relative_to(self.root)) for name in [*names, *links]}
        return found - {"systemctl"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def scripts(document: str, title: str) -> list[str]:
    """The commands of a section's `sh` blocks."""
    return [block.text for block in blocks(section(document, title)) if block.language == "sh"]


def served(machine: Machine, shell: str, serve: str) -> str:
    """What a lookup prints while the README's command serves a directory of one's own."""
    own = machine.root / "own"
    shutil.copytree(ROOT / "fixtures" / "example", own / "callback")
    places = {"PIPE": "pipe", "LOG": "log", "STATE": "state"}
    given = "".join(f"export CALLBACK_AGENT_{name}={own}/{at}\n" for name, at in places.items())
    given += "export CALLBACK_AGENT_UNSAFE_PERMISSIONS=warn\n"
    command = serve.replace("DIRECTORY", f"{own}/callback").strip()
    assert "callback-agent serve" in command.splitlines()[-1]
    ended = command.replace("callback-agent serve", f"timeout {PATIENCE} callback-agent serve")
    said = machine.run(
        f"{shell}{given}{ended} 2>/dev/null &\n"
        "until callback-agent lookup failed-job-self 2>/dev/null; do kill -0 $!; sleep 0.1; done\n"
        "kill $!; wait $!\n"
    )
    assert "logFailuresToDB.py" in said
    shutil.rmtree(own)
    (machine.home / "callbacks-qb.conf").unlink()
    return said


def test_the_readme_installs_upgrades_and_removes_it(machine: Machine) -> None:
    install, shell, serve, upgrade, remove = scripts((ROOT / "README.md").read_text(), "Install")
    machine.run(install)
    # As in a ~/.bashrc; MANPATH may be unset there, and `set -u` is the test's own.
    asked = "callback-agent --version; complete -p callback-agent; manpath -q 2>/dev/null || true"
    said = machine.run(f"set +u\n{shell}{asked}\n").splitlines()
    assert said[0].startswith("callback-agent 0.")
    assert said[1].startswith("complete ")
    if shutil.which("manpath"):
        assert f"{machine.home}/.local/share/callback-agent/share/man" in said[2]
        assert "/usr/share/man" in said[2]
    if shutil.which("man"):
        assert "callback-agent-check(1)" in machine.run(f"set +u\n{shell}man callback-agent\n")
    assert "(language off" not in served(machine, f"set +u\n{shell}", serve)
    package = machine.checkout / "agent" / "__init__.py"
    package.write_text(re.sub('__version__ = ".*"', '__version__ = "7.8.9"', package.read_text()))
    said_after = machine.run(f"set +u\n{shell}{upgrade}")
    assert said_after.endswith("callback-agent 7.8.9\n")
    machine.run(remove)
    assert machine.files() == set()
    tracked = {"agent", "scripts", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert {path.name for path in machine.checkout.iterdir()} == tracked


def test_operations_installs_a_service_upgrades_and_removes_it(machine: Machine) -> None:
    page = (MANUAL / "operations.md").read_text()
    build, install, complete, _ = scripts(page, "Install")
    # The test's own: the dependencies are those of the tests, and are not built.
    machine.environ["PIP_NO_DEPS"] = "1"
    machine.run(build)
    machine.run(install)
    machine.run(complete)
    unit = (machine.root / "etc/systemd/system/callback-agent.service").read_text()
    for command in re.findall(r"^Exec\w+=/(\S+)", unit, re.M):
        assert os.access(machine.root / command, os.X_OK), command
    called = (machine.root / "systemctl").read_text().splitlines()
    assert called == ["daemon-reload", "enable --now callback-agent"]
    assert machine.run("callback-agent --version").startswith("callback-agent 0.")
    man = machine.root / "usr/local/share/man"
    assert (man / "man1/callback-agent-check.1").exists()
    assert (man / "man5/callbacks.conf.5").exists()
    (upgrade,) = scripts(page, "Restart and upgrade")
    machine.run(upgrade)
    assert machine.run("callback-agent --version").startswith("callback-agent 0.")
    (remove,) = scripts(page, "Remove")
    machine.run(remove)
    assert machine.files() == set()
