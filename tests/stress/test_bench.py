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
        "one,objects,edit-p50,memory-burst,idle-20,mirror-new",
    ]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert all(
        rows[name]["ours"] > 0
        for name in ("one", "objects", "edit-p50", "memory-burst", "mirror-new")
    )
    assert rows["idle-20"]["goal"] == {"relation": "<=", "limit": 0.5, "of": "ours"}
    assert rows["mirror-new"]["detail"]["ratio_to_c"] > 0
