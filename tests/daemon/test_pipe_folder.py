"""The folder of the pipe: who owns it, and who can write to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.daemon import pipe_folder
from agent.settings import Settings, SettingsError, resolve
from agent.settings.host import Host
from support.given import by_flag

HOST = Host("linux", 1000, "/home/qube", "/work")


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    for system, most in (("linux", 107), ("darwin", 103), ("other", 103)):
        pipe_folder.check_length("/" + "x" * (most - 1), system)
        with pytest.raises(SettingsError, match=f"has {most + 1} bytes.* {most}"):
            pipe_folder.check_length("/" + "x" * most, system)
        with pytest.raises(SettingsError):
            pipe_folder.check_length("/" + "\u00e9" * (most // 2 + 1), system)


def default_settings(tmp_path: Path) -> Settings:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    return resolve({}, environ, None, HOST)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_default_folder_is_made_for_its_user_alone(tmp_path: Path, umask: int) -> None:
    found = default_settings(tmp_path)
    before = os.umask(umask)
    try:
        pipe_folder.make(found)
        pipe_folder.make(found)
    finally:
        os.umask(before)
    mode = (tmp_path / "callback-agent").stat().st_mode & 0o7777
    assert mode == (0o755 if os.geteuid() == 0 else 0o700)


def test_a_default_folder_that_others_could_use_is_refused(tmp_path: Path) -> None:
    found = default_settings(tmp_path)
    folder = tmp_path / "callback-agent"
    (tmp_path / "elsewhere").mkdir(0o700)
    folder.symlink_to("elsewhere")
    with pytest.raises(SettingsError, match="not a directory"):
        pipe_folder.make(found)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(SettingsError, match=r"0770.*chmod"):
        pipe_folder.make(found)
    folder.chmod(0o750)
    pipe_folder.make(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_default_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    found = default_settings(tmp_path)
    (tmp_path / "callback-agent").mkdir(0o700)
    os.chown(tmp_path / "callback-agent", 4711, 4711)
    with pytest.raises(SettingsError, match="belongs to the user id 4711"):
        pipe_folder.make(found)


def test_a_default_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    found = default_settings(tmp_path / "none")
    with pytest.raises(SettingsError, match=r"cannot be made: No such file.*--pipe"):
        pipe_folder.make(found)


def test_the_folder_of_a_named_pipe_must_be_there_and_is_not_made(tmp_path: Path) -> None:
    found = resolve(by_flag({"pipe": str(tmp_path / "folder" / "pipe")}), {}, None, HOST)
    with pytest.raises(SettingsError, match=r"--pipe: the pipe's folder .*/folder does not exist"):
        pipe_folder.make(found)
    assert not (tmp_path / "folder").exists()
    (tmp_path / "folder").mkdir(0o777)
    pipe_folder.make(found)
