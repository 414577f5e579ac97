"""`callback-agent slurm setup`: what is to be done, and what of it is done."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path

import pytest

from agent import cli
from agent.slurm import setup, slurm_conf
from agent.slurm.setup import BadPath, Step, steps

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: files of root are made")


class Site:
    """A machine with a slurm.conf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.spool = folder / "spool"
        self.hook = folder / "lib/slurm-hook"

    def write(self, *lines: str) -> None:
        self.conf.write_text("".join(f"{line}\n" for line in (f"SlurmUser={USER}", *lines)))

    def steps(self) -> list[Step]:
        return steps(self.conf, str(self.hook), str(self.spool))

    def todo(self) -> list[Step]:
        return [step for step in self.steps() if step.todo]

    def do(self) -> None:
        """Paste all that is to be done: commands into a shell, lines into slurm.conf."""
        for step in self.todo():
            for line in step.todo:
                name, mark, _ = line.partition("=")
                if mark and name.isalnum():
                    kept = self.conf.read_text().splitlines()
                    kept = [one for one in kept if not one.startswith(f"{name}=")]
                    self.conf.write_text("\n".join([*kept, line, ""]))
                elif not line.startswith("systemctl"):
                    subprocess.run(["sh", "-ec", line], check=True)


USER = getpass.getuser()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    one = Site(tmp_path)
    one.write("ClusterName=t")
    return one


@needs_root
def test_what_it_prints_is_all_that_is_to_be_done(site: Site) -> None:
    found = [step.text for step in site.todo()]
    assert [text.split("; add")[0] for text in found] == [
        f"the spool {site.spool} does not exist",
        f"the hook {site.hook} does not exist",
        f"{site.conf} has no PrologSlurmctld, which reports that a job or task starts",
        f"{site.conf} has no EpilogSlurmctld, which reports that a job or task ends",
        f"{site.conf} has no JobCompType, which reports how a job ended",
        "slurmctld reads slurm.conf when it starts; running jobs go on",
    ]
    site.do()
    assert site.todo() == []
    assert site.spool.stat().st_mode & 0o777 == 0o700
    assert f"\nspool={site.spool}\n" in site.hook.read_text()
    # It works.
    subprocess.run([site.hook], env={"SLURM_JOB_ID": "7"}, check=True)
    (event,) = site.spool.iterdir()
    assert b"SLURM_JOB_ID=7\0" in event.read_bytes()


@needs_root
def test_a_program_that_is_there_already_is_called_too(site: Site, tmp_path: Path) -> None:
    own = tmp_path / "own prolog"
    own.write_text(f'#!/bin/sh\necho "$SLURM_JOB_ID $1" >{tmp_path}/said\nexit 3\n')
    own.chmod(0o755)
    site.write(f'PrologSlurmctld="{own}"', "JobCompType=JobComp/Script", f'JobCompLoc="{own}"')
    site.do()
    assert site.todo() == []
    program = slurm_conf.read(site.conf)["prologslurmctld"].value
    done = subprocess.run([program, "x"], env={"SLURM_JOB_ID": "7"}, check=False)
    # The site's program still says whether the job may start.
    assert done.returncode == 3
    assert (tmp_path / "said").read_text() == "7 x\n"
    assert len(list(site.spool.iterdir())) == 1
    # slurmctld must be able to run it.
    Path(program).chmod(0o644)
    step = site.todo()[0]
    assert f"which calls the hook, but {USER} may not run it" in step.text
    site.do()
    assert site.todo() == []
    # A comment does not call it.
    Path(program).write_text(f"#!/bin/sh\n# {site.hook}\nexit 0\n")
    assert any("does not call the hook" in step.text for step in site.todo())


@needs_root
def test_another_completion_plugin_may_stay(site: Site) -> None:
    site.do()
    site.write(
        f"PrologSlurmctld={site.hook}", f"EpilogSlurmctld={site.hook}",
        "JobCompType=jobcomp/elasticsearch", "JobCompLoc=localhost:9200/slurm/_doc", "MinJobAge=2",
    )  # fmt: skip
    assert [step.optional for step in site.todo()] == [True, True]
    assert "It may stay" in site.todo()[0].text
    assert "MinJobAge is 2: so soon Slurm forgets" in site.todo()[1].text


@needs_root
def test_what_is_wrong_is_said(site: Site) -> None:
    site.do()

    def only() -> str:
        (found,) = site.todo()
        return found.text

    site.spool.chmod(0o770)
    assert "has mode 0770; expected 0" in only()
    site.do()
    os.chown(site.spool, 1, 1)
    assert "belongs to user 1" in only()
    site.do()
    site.hook.chmod(0o757)
    assert "belongs to user 0 and has mode 0757; expected 0 and 0755" in only()
    site.do()
    site.hook.write_text(site.hook.read_text().replace("umask", "umask "))
    assert "of another version, or for another spool" in only()
    site.do()
    site.conf.write_text(site.conf.read_text().replace(f"={USER}", "=nobody-here"))
    assert only() == "the spool: SlurmUser is nobody-here, and there is no such user here"
    site.conf.unlink()
    assert only().startswith(f"{site.conf}: No such file or directory; name")
    with pytest.raises(BadPath, match="expected an absolute path"):
        steps(site.conf, "/lib/a b", "/spool")
    with pytest.raises(BadPath, match="expected an absolute path"):
        steps(site.conf, "/lib/hook", "spool")


def test_slurm_conf_is_read_as_slurm_reads_it(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    (tmp_path / "more.conf").write_text("epilogslurmctld=/from/more # a comment\nMinJobAge=5\n")
    conf.write_text(
        "# PrologSlurmctld=/no\n"
        "PROLOGSLURMCTLD = /yes  SlurmUser=slurm#old\n"
        "INCLUDE more.conf\n"
        'JobCompLoc="/a b/c" \\\n'
        "  MinJobAge=7\n"
        "NodeName=a JobCompType=jobcomp/none\n"
        "PrologSlurmctld=/last\n"
    )
    found = slurm_conf.read(conf)
    assert {name: one.value for name, one in found.items()} == {
        "prologslurmctld": "/last",
        "slurmuser": "slurm",
        "epilogslurmctld": "/from/more",
        "minjobage": "7",
        "jobcomploc": "/a b/c",
    }
    assert str(found["epilogslurmctld"]) == f"{tmp_path}/more.conf:1"
    assert [found[name].line for name in ("minjobage", "prologslurmctld")] == [4, 7]
    conf.write_text("Include gone\n")
    with pytest.raises(OSError, match="gone"):
        slurm_conf.read(conf)


def test_the_command(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(site.conf))
    command = ["slurm", "setup", "--spool", str(site.spool), "--hook", str(site.hook)]
    assert cli.main(command) == 1
    assert f"to do: the hook {site.hook} does not exist:\n    install -d" in capsys.readouterr().out
    if os.geteuid() == 0:
        site.do()
        assert cli.main(command) == 0
        said = capsys.readouterr().out
        assert f"done: {site.conf}:3: PrologSlurmctld is the hook\n" in said
        assert "to do" not in said
    assert cli.main([*command, "--spool", "spool"]) == 2
    assert "spool: expected an absolute path" in capsys.readouterr().err


def test_the_default_hook_is_the_one_that_ships() -> None:
    assert setup.hook_text("/var/spool/callback-agent") == setup.SOURCE.read_text()
