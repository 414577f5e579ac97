"""Feeds any bytes to all that reads bytes of others, and looks for what must never be.

The targets are in tests/support/targets.py: the pipe's lines and their answers, callbacks.conf,
qb.conf, triggers and events, the .qcb and flag checks, and the check of Python in its helper.
Where atheris can be imported the search is guided by coverage, else hypothesis makes the inputs.
Python's compiler runs in a child that no coverage comes from, so hypothesis makes its inputs.

Prints a line for each target. On a finding it prints the bytes that show it, and exits 1.

    scripts/fuzz --seconds 600
    scripts/fuzz --seconds 60 --target triggers
    scripts/fuzz --target pipe --bytes "b'[]'"      (those bytes alone, to see a finding again)
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from support.targets import Target

    #: A target, inputs to begin with, and the words of its language.
    Searchable = tuple[Target, tuple[bytes, ...], tuple[bytes, ...]]

TESTS = Path(__file__).parent.parent
GUIDED = importlib.util.find_spec("atheris") is not None
#: The most bytes of one input, before targets.py blows some of them up.
MAX_BYTES = 4096
#: Seconds after which atheris counts one input as hanging: seconds of the clock, which on a busy
#: machine say little. The targets hold each input to processor time.
HANGS = 300
#: Bytes of memory that the process of a guided search may have, in MiB.
MAX_MEMORY = 2048
#: Characters of a traceback that are shown; inputs may be long.
MAX_SHOWN = 4000


def searched(what: Searchable, seconds: float) -> int | bytes:
    """With hypothesis: how many inputs were tried, or the bytes that are a finding."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    target, seeds, words = what
    part = st.one_of(
        st.sampled_from(words),
        st.sampled_from(words),
        st.sampled_from(seeds),
        st.binary(max_size=8),
    )
    # Most inputs are small; some are one of the first with something put in or cut out.
    inputs = st.one_of(
        st.lists(part, max_size=40).map(b"".join),
        st.builds(
            lambda whole, at, cut, new: (
                whole[: at % (len(whole) + 1)] + new + whole[at % (len(whole) + 1) + cut :]
            ),
            st.sampled_from(seeds),
            st.integers(0, 500),
            st.integers(0, 10),
            part,
        ),
        st.builds(
            lambda first, rest: bytes([first]) + rest, st.sampled_from(range(7, 256, 16)), part
        ),
        st.binary(max_size=300),
    )
    end = time.monotonic() + seconds
    tried = 0
    failed: bytes | None = None

    def once(data: bytes) -> None:
        nonlocal tried, failed
        if failed is None and tried and time.monotonic() > end:
            return
        tried += 1
        try:
            target(data)
        except Exception:
            failed = data
            raise

    number = int(time.time())
    while not tried or time.monotonic() < end:
        number += 1
        run = settings(
            max_examples=500,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(seed(number)(given(inputs)(once)))
        try:
            run()
        except Exception:
            print(traceback.format_exc()[-MAX_SHOWN:])
            assert failed is not None
            return failed
    return tried


def guided(name: str, seconds: float) -> int | bytes:
    """As `searched`, with atheris, in a process of its own: its search never returns."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        command = [sys.executable, str(TESTS), "fuzz", "--inside", folder]
        command += ["--target", name, "--seconds", str(seconds)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, errors="replace"
        )
        left = [p for p in Path(folder).glob("finding-*") if p.is_file()]
        if left or done.returncode:
            print(done.stdout[-MAX_SHOWN:])
            return left[0].read_bytes() if left else b""
        counts = re.findall(r"^#(\d+)\s", done.stdout, re.MULTILINE)
        return int(counts[-1]) if counts else 0


def inside(name: str, seconds: float, folder: Path) -> NoReturn:
    """The search itself, in the child."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["agent"]):
        from support.targets import TARGETS
    target, seeds, words = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    (folder / "words").write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words)
    )
    options = [
        *(f"-max_total_time={max(1, int(seconds))}", f"-max_len={MAX_BYTES}"),
        *(f"-timeout={HANGS}", f"-report_slow_units={HANGS}"),
        *(f"-rss_limit_mb={MAX_MEMORY}", f"-dict={folder}/words"),
        *(f"-artifact_prefix={folder}/finding-", str(corpus)),
    ]
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()
    raise SystemExit(0)


def again(target: Target, data: bytes) -> int:
    """Give the target these bytes; the exit status."""
    try:
        target(data)
    except Exception:
        print(traceback.format_exc()[-MAX_SHOWN:])
        return 1
    print("nothing was found")
    return 0


def main() -> int:
    from support.targets import TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (%(default)s)")
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one alone")
    parser.add_argument("--bytes", help="these bytes alone, written as Python does: b'...'")
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [options.target] if options.target else list(TARGETS)
    if options.bytes is not None:
        return max(again(TARGETS[n][0], bytes(ast.literal_eval(options.bytes))) for n in names)
    seconds = options.seconds / len(names)
    found = False
    for name in names:
        began = time.monotonic()
        if GUIDED and name != "python":
            how, result = "guided by coverage", guided(name, seconds)
        else:
            how, result = "by hypothesis", searched(TARGETS[name], seconds)
        if isinstance(result, int):
            print(f"{name:16}{result:10} inputs in {time.monotonic() - began:.0f} s, {how}: well")
        else:
            found = True
            print(f"{name:16} A FINDING, {how}. See it again:")
            print(f"    scripts/fuzz --target {name} --bytes {shlex.quote(repr(result))}")
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    if "--inside" in sys.argv:
        # Before anything of the agent is imported.
        at = sys.argv.index
        inside(
            sys.argv[at("--target") + 1],
            float(sys.argv[at("--seconds") + 1]),
            Path(sys.argv[at("--inside") + 1]),
        )
    sys.exit(main())
