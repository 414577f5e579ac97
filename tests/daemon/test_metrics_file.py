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
TEXT = b"# HELP callback_agent_build_info x\ncallback_agent_build_info 1.0\n"


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


#: What is at the path of the metrics file, and what is said of it.
FOREIGN = {
    "fifo": "it is not a regular file",
    "link": "it is a link to target",
    "directory": "it is a directory",
    "text": 'it is a file of another program and begins with "# HELP node_load1 \\x1bLoad."',
    "slurm": 'it is a file of another program and begins with "# HELP callback_agent_slurm_events',
    "binary": 'it is a file of another program and begins with "\\x00',
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_the_agent_did_not_write_is_not_replaced(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As root, a device would be replaced for everyone."""
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "target").write_text("# HELP callback_agent_state x\n")
        path.symlink_to("target")
    elif kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_bytes(b"# HELP node_load1 \x1bLoad.\nnode_load1 1\n")
    elif kind == "slurm":
        path.write_bytes(b"# HELP callback_agent_slurm_events_total Events handled.\n")
    else:
        path.write_bytes(b"\0\n" * 1000)
    before, listed = os.lstat(path), sorted(os.listdir(tmp_path))
    caplog.set_level("INFO")
    file = MetricsFile(str(path))
    file.put(TEXT)
    wait_for(lambda: FOREIGN[kind] in caplog.text)
    assert "name another with --metrics-file, or remove this one" in caplog.text
    file.remove()
    assert os.lstat(path).st_ino == before.st_ino
    assert sorted(os.listdir(tmp_path)) == listed
    assert caplog.text.count("cannot be written") == 1
    # When it is gone, the file is written.
    path.rename(tmp_path / "elsewhere")
    file.put(TEXT)
    wait_for(lambda: "is written again" in caplog.text)
    assert path.read_bytes() == TEXT
    file.remove()
    wait_for(lambda: not path.exists())


def test_what_stands_where_the_file_is_written_first_is_not_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, begun = tmp_path / "file", tmp_path / "file.begun"
    begun.write_text("notes\n")
    file = MetricsFile(str(path))
    file.put(TEXT)
    wait_for(lambda: f"{begun} is a file of another program and begins with" in caplog.text)
    file.remove()
    assert begun.read_text() == "notes\n"
    assert not path.exists()


def test_the_folder_of_the_file_must_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "none"
    path = folder / "file"
    caplog.set_level("INFO")
    file = MetricsFile(str(path))
    expected = f"{folder} is not a folder that exists: create it, or name another with --metrics-"
    file.put(TEXT)
    wait_for(lambda: expected in caplog.text)
    folder.mkdir()
    file.put(TEXT)
    wait_for(lambda: path.exists() and path.read_bytes() == TEXT)
    file.remove()


@pytest.mark.parametrize("own", [b"", b"# TYPE callback_agent_build info\n"])
def test_a_file_of_the_agent_or_an_empty_one_is_replaced(tmp_path: Path, own: bytes) -> None:
    """A power failure may leave an empty one, and a crash an old one."""
    path = tmp_path / "file"
    path.write_bytes(own)
    file = MetricsFile(str(path))
    file.put(TEXT)
    wait_for(lambda: path.read_bytes() == TEXT)
    file.remove()
    wait_for(lambda: not path.exists())


def test_a_disk_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    """The newest text takes the place of those that wait; the stop waits for a moment only."""
    path = tmp_path / "file"
    file = MetricsFile(str(path))
    begun = path.with_name("file.begun")
    os.mkfifo(begun)
    begun.unlink()
    file.put(TEXT)
    wait_for(lambda: path.exists() and path.read_bytes() == TEXT)
    for number in range(5):
        file.put(TEXT + b"x %d\n" % number)
    wait_for(lambda: path.read_bytes().endswith(b"x 4\n"))
    file.remove()
    wait_for(lambda: os.listdir(tmp_path) == [])
