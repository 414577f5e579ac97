"""The file of metrics for the node exporter's textfile collector."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.daemon.metrics_file import MetricsFile
from support import metrics
from support.agents import Agent, wait_for, write

CONF = "a.py = done-job-self\n"


def test_the_file_is_written_and_removed_at_the_stop(tmp_path: Path) -> None:
    """Also where its folder is made later, which is reported once, and again when it is mended."""
    folder = tmp_path / "textfile"
    file = folder / "callback-agent.prom"
    agent = Agent(tmp_path, write(tmp_path / "cb", CONF, a_py="0\n"))
    agent.flags += ["--metrics-file", str(file)]
    agent.environ["CALLBACK_AGENT_METRICS_FILE"] = str(tmp_path / "other")
    os.umask(os.umask(0o077))
    agent.prefix = ["sh", "-c", 'umask 077; exec "$@"', "sh"]
    agent.start()
    try:
        assert agent.status()["settings"]["metrics_file"] == {
            "value": str(file),
            "source": "--metrics-file",
        }
        wait_for(lambda: "cannot be written" in agent.errors.read_text())
        assert agent.lookup("done-job-self")["callbacks"]
        folder.mkdir()
        wait_for(file.exists)
        wait_for(lambda: "is written again" in agent.errors.read_text())
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert os.listdir(folder) == [file.name]
        text = file.read_text()
        families = list(text_string_to_metric_families(text))
        # The collector refuses a file in which a sample has a time.
        assert all(sample.timestamp is None for one in families for sample in one.samples)
        assert "# EOF" not in text
        found = metrics.samples(families)
        assert metrics.matches(found).keys() == {("a.py", "done-job-self")}
        assert metrics.value(found, "state", state="ok") == 1
    finally:
        assert agent.stop() == 0
    assert os.listdir(folder) == []
    errors = agent.errors.read_text()
    assert errors.count("cannot be written") == 1
    assert str(file) in errors
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_not_a_file_is_not_replaced(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As root, a device would be replaced for everyone."""
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "target")
    else:
        path.mkdir()
    before = os.lstat(path)
    file = MetricsFile(str(path))
    file.put(b"x 1\n")
    wait_for(lambda: "it is not a regular file" in caplog.text)
    file.remove()
    assert os.lstat(path).st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["file"]
    assert caplog.text.count("cannot be written") == 1


def test_a_disk_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    """The newest text takes the place of those that wait; the stop waits for a moment only."""
    path = tmp_path / "file"
    file = MetricsFile(str(path))
    begun = path.with_name("file.begun")
    os.mkfifo(begun)
    begun.unlink()
    file.put(b"x 1\n")
    wait_for(lambda: path.exists() and path.read_bytes() == b"x 1\n")
    for number in range(5):
        file.put(b"x %d\n" % number)
    wait_for(lambda: path.read_bytes() == b"x 4\n")
    file.remove()
    assert os.listdir(tmp_path) == []
