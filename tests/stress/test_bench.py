"""A short form of scripts/bench: it runs, and its rows are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not all(map(shutil.which, ("cc", "redis-server", "watchman"))),
    reason="needs a C compiler, and redis and watchman, which the agent is measured beside",
)
def test_the_bench_runs() -> None:
    command = [
        str(ROOT / "scripts/bench"),
        "--quick",
        "--json",
        "--only",
        "one,edit-p50,mirror-new",
    ]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert all(rows[name]["ours"] > 0 for name in ("one", "edit-p50", "mirror-new"))
    assert rows["mirror-new"]["detail"]["ratio_to_c"] > 0
