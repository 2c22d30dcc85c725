"""Files of ours are for their owner alone; files that a user asks for have the user's umask."""

import json
import os
import stat
from pathlib import Path

import pytest

from snf_worker.process_setup import protect_home
from tests.support.paths import DATA, ROOT
from tests.support.programs import PROGRAM, run_program

pytestmark = pytest.mark.usefixtures("unmeasured_processes")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def snf(home: Path, *commands: list[str], **variables: str) -> None:
    """Runs commands in one process, a fork, with the umask 022 of most users."""
    program = home.with_name("commands.py")
    program.write_text(PROGRAM)
    before = os.umask(0o022)
    try:
        done = run_program(
            program, json.dumps(commands), cwd=ROOT, env=os.environ | {"SNF_HOME": str(home)} | variables, timeout=120
        )
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended with 0\n") == len(commands), done.stdout


def test_a_home_of_an_earlier_version_is_narrowed_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert protect_home(home) is None
    home.mkdir()
    home.chmod(0o2755)
    assert (
        protect_home(home) == f"{home} was open to other users of this machine (mode 2755); now it is open to its "
        "owner alone"
    )
    assert mode(home) == 0o2700
    assert protect_home(home) is None


def test_a_home_of_another_user_is_left_alone_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o750)
    owner = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    remark = protect_home(tmp_path)
    assert remark is not None
    assert f"belongs to uid {owner}" in remark
    assert mode(tmp_path) == 0o750


def test_commands_keep_their_home_private_and_write_files_for_the_user_and_backbones_for_all(tmp_path: Path) -> None:
    home, out, maps, backbones = (tmp_path / name for name in ("home", "scores.csv", "maps", "backbones"))
    digit, tar, samples = str(DATA / "mnist" / "00027-4.png"), tmp_path / "model.tar", tmp_path / "samples.png"
    snf(
        home,
        ["score", digit, "--out", str(out)],
        ["score", digit, "--explain", str(maps)],
        ["models", "export", "mnist-snf-glow", str(tar)],
        ["sample", "-n", "1", "--out", str(samples)],
        ["models", "import", "copy", str(tar)],
        ["backbones", "add", "efficientnet-lite0"],
        SNF_ENGINE="torch",  # loads in less time
        SNF_BACKBONES=str(backbones),
    )
    for path in (out, *maps.iterdir(), tar, samples):
        assert mode(path) == 0o644, path
    assert mode(maps) == 0o755
    assert mode(home) == 0o700
    inside = [path for path in home.rglob("*") if not path.is_symlink()]
    assert (home / "registry" / "copy") in inside
    assert [path for path in inside if mode(path) & 0o077] == []
    shared = [backbones, *backbones.rglob("*")]
    assert len(shared) >= 3
    assert [path for path in shared if not mode(path) & 0o004] == []
