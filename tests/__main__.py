"""Runs a program of tests/stress, or another of the tests: `python tests NAME [OPTION...]`.

Python puts the folder that it runs at the front of its path. So what the tests share is imported
by plain name here as well.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    modules = (path.stem for path in (Path(__file__).parent / "stress").glob("[a-z]*.py"))
    names = sorted(n for n in modules if n != "conftest" and not n.startswith("test_"))
    names += ["bench", "slurm_demo"]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"usage: python tests NAME [OPTION...], where NAME is one of: {', '.join(names)}")
    name = sys.argv.pop(1)
    module = name if name in ("bench", "slurm_demo") else f"stress.{name}"
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
