"""Callback directories to measure with: the example, and big ones made from a seed."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

SEED = 20140120

# The example of the vendor's page; all three languages. Each event asked for in the benchmark is
# answered by one of these lines and by no generated one, so that the answer has one length
# however many callbacks there are.
EXAMPLE_LINES = (
    "logFailuresToDB.py = failed-job-self-*",
    "mail-status.qcb = done-job-self",
    "checkWork.pl = done-work-self-*",
)
EXAMPLE_FILES = {
    "logFailuresToDB.py": "info = qb.jobinfo('-id', qb.jobid())[0]\nprint(info['name'])\n",
    "mail-status.qcb": "mail-status\n",
    "checkWork.pl": 'print "work of job $qb::jobid\\n";\n',
}


@dataclass(frozen=True)
class Directories:
    """Callback directories on disk, and what is in them."""

    paths: tuple[Path, ...]
    callbacks: int
    code_bytes: int


class Conf:
    """The callbacks.conf of one directory, edited as careful editors do: write, then rename."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "callbacks.conf"
        self._text = self._path.read_text()
        self._new = directory / ".callbacks.conf.new"

    def prepare(self, lines: str) -> int:
        """Write the new file, with `lines` after the old text; its mtime in ns names the edit."""
        self._new.write_text(self._text + lines)
        return self._new.stat().st_mtime_ns

    def swap(self) -> None:
        """Put the new file in the place of the old one."""
        os.rename(self._new, self._path)

    def restore(self) -> None:
        """Put the first text back."""
        self.prepare("")
        self.swap()


def write_example(root: Path, more: tuple[str, ...] = ()) -> Directories:
    """The example directory at root/d000, with `more` lines after its own."""
    lines = (*EXAMPLE_LINES, *more)
    size = _write(root / "d000", lines, EXAMPLE_FILES)
    return Directories((root / "d000",), len(lines), size)


def write_generated(root: Path, callbacks: int, files: int, directories: int) -> Directories:
    """`callbacks` lines over `files` files in `directories` directories, the example among them."""
    chance = random.Random(SEED)
    paths = []
    size = 0
    number = 0
    for index in range(directories):
        wanted = callbacks * (index + 1) // directories - callbacks * index // directories
        named = files * (index + 1) // directories - files * index // directories
        example = EXAMPLE_FILES if index == 0 else {}
        lines = list(EXAMPLE_LINES) if index == 0 else []
        sources = example | _sources(chance, named - len(example))
        names = list(sources)
        while len(lines) < wanted:
            number += 1
            lines.append(f"{names[len(lines) % len(names)]} = {_trigger(chance, number)}")
        path = root / f"d{index:03d}"
        size += _write(path, tuple(lines), sources)
        paths.append(path)
    return Directories(tuple(paths), callbacks, size)


def patterns(count: int) -> tuple[str, ...]:
    """Lines with `count` triggers `x*i*y` of one name and type, which all have to be tried."""
    return tuple(f"mail-status.qcb = done-work-self-x*{i}f*y" for i in range(count))


def _write(path: Path, lines: tuple[str, ...], sources: dict[str, str]) -> int:
    path.mkdir(parents=True)
    for name, text in sources.items():
        (path / name).write_text(text)
    (path / "callbacks.conf").write_text("".join(f"{line}\n" for line in lines))
    return sum(len(text) for text in sources.values())


def _sources(chance: random.Random, count: int) -> dict[str, str]:
    """`count` implementation files, 0.2 to 4 KB of Python or Perl and now and then a .qcb."""
    sources = {}
    for i in range(count):
        size = chance.randint(10, 150)
        if i % 10 == 9:
            sources[f"mail{i}.qcb"] = "mail-status\n"
        elif i % 3 == 2:
            sources[f"check{i}.pl"] = "".join(f"my $v{n} = {n} * 7;\n" for n in range(size))
        else:
            sources[f"log{i}.py"] = "".join(f"value_{n} = {n} * 7 + 1\n" for n in range(size))
    return sources


def _trigger(chance: random.Random, number: int) -> str:
    """A trigger of its own for each number, of the kinds that sites write."""
    kinds = (
        f"done-job-label{number}",
        f"failed-job-render {number}",
        f"failed-work-lab-{number}-*",
        f"complete-work-self-frame-{number:06d}",
        f"done-work-shot{number}-frame-*",
        f"complete-job-{1000 + number}",
        f"running-subjob-comp{number}-{chance.randint(1, 99)}",
        f"complete-job-sim{number} && complete-job-cache{number}",
        f"(done-work-a{number}-1 && done-work-b{number}-1) || failed-job-c{number}",
    )
    return chance.choice(kinds)
