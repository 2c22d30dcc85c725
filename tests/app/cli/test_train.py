"""`snf train`: its help, its folder, and two processes as torchrun starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from snf_app.cli.common import INTERRUPTED
from snf_app.cli.main import cli
from snf_models.errors import Interrupted
from snf_models.pipeline.presets import find_preset, parameter_groups
from snf_models.pipeline.run import RUN_FILE, RunRecord
from snf_models.registry.registry import Registry
from snf_runtime.errors import FAILED, USAGE
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT
from tests.support.ports import free_port
from tests.support.unmeasured import unmeasured
from tests.worker.support.helpers import until


@pytest.mark.timeout(120)
def test_the_first_process_alone_reports_and_registers(tmp_path: Path) -> None:
    """They are forks with the variables that torchrun gives, as `test_distributed.py` shows."""
    command = [sys.executable, "-m", "snf_app.cli.main", "train", "--data", "mnist-mini", "--preset", "snf-glow-tiny"]
    command += ["--max-steps", "2", "--name", "digits", "--json"]
    command += [f"--set={given}" for given in ("image_size=8", "batch_size=8", "validation_images=8", "validations=1")]
    environment = {
        **unmeasured(), "SNF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORT_PATH,
        "SNF_ENGINE": "torch",  # starts in the least time
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
    }  # fmt: skip
    said, errors = tmp_path / "said", tmp_path / "errors"
    with said.open("wb") as stdout, errors.open("wb") as stderr:
        processes = [
            fork_server().popen(
                command, stdout=stdout, stderr=stderr, env={**environment, "RANK": rank, "LOCAL_RANK": rank}, cwd=ROOT
            )
            for rank in ("0", "1")
        ]
    try:
        until(lambda: any(process.poll() for process in processes) or all(p.poll() == 0 for p in processes), 100)
        assert [process.poll() for process in processes] == [0, 0], errors.read_text()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    events = [json.loads(line) for line in said.read_text().splitlines()]
    for name in ("started", "validation", "checkpoint", "evaluation", "published"):
        assert [event["event"] for event in events].count(name) == 1, name
    assert events[-1]["ref"] == "digits:1"
    assert Registry(tmp_path / "registry").versions("digits") == [1]


def test_the_help_lists_every_parameter_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli, ["train", "--help"]).stdout
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for group in parameter_groups().values():
        for one in group:
            assert f"{one.name} {one.meaning} [{one.values}; default: {one.default}]" in text
    for name in ("snf-fc-2l", "snf-glow-2l-4k-5x5"):
        assert f" {name} max_steps=" in text


def test_the_help_does_not_load_pytorch() -> None:
    program = "\n".join(
        (
            "import sys",
            "from snf_app.cli.main import cli",
            "try: cli(['train', '--help'])",
            "finally: assert 'torch' not in sys.modules",
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": IMPORT_PATH}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupted_run_of_other_settings_is_kept_until_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = find_preset("snf-glow-tiny").config({"max_steps": 9})
    folder, checkpoint = tmp_path / "runs" / "digits", tmp_path / "runs" / "digits" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    run = RunRecord.of("snf-glow-tiny", ("mnist-mini", "other"), config, None)
    (folder / RUN_FILE).write_text(run.model_dump_json())
    command = ["train", "--data", "mnist-mini", "--preset", "snf-glow-tiny", "--name", "digits", "--max-steps", "5"]
    env = {"SNF_HOME": str(tmp_path), "SNF_URL": ""}

    refused = CliRunner().invoke(cli, command, env=env)
    assert refused.exit_code == USAGE
    assert "max_steps: expected 9, got 5; the images of mnist-mini have changed" in refused.stderr
    assert "--restart" in refused.stderr
    assert checkpoint.is_dir()

    def interrupted(_dataset: Any, _recipe: Any, _config: Any, place: Path, **_rest: Any) -> Path:
        assert place == folder
        assert not place.exists()
        raise Interrupted("stopped")

    monkeypatch.setattr("snf_app.cli.local_work.run", interrupted)
    restarted = CliRunner().invoke(cli, [*command, "--restart"], env=env)
    assert restarted.exit_code == INTERRUPTED
    assert f"the earlier run is now in {folder}~1" in restarted.stderr
    assert (tmp_path / "runs" / "digits~1" / "checkpoints" / "step-00000001").is_dir()


def test_a_gpu_without_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("snf_app.cli.local_work.run", full)
    failed = CliRunner().invoke(cli, ["train", "--data", "mnist-mini"], env={"SNF_HOME": str(tmp_path), "SNF_URL": ""})
    assert failed.exit_code == FAILED
    assert "the GPU has no more memory: a smaller batch_size" in failed.stderr


def test_an_architecture_can_come_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, CliRunner().invoke(cli, ["presets", "show", "snf-glow-tiny"]).stdout.encode())
    os.close(writer)
    # What the shell passes for <(...), which can be read once.
    options = ["--data", "mnist-mini", "--name", "piped", "--architecture", f"/dev/fd/{reader}"]
    done = CliRunner().invoke(cli, ["train", *options, "--url", "http://127.0.0.1:1"])
    os.close(reader)
    assert done.exit_code == FAILED, done.output
