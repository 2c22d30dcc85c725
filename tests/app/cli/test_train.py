"""`snf train` in two processes that torchrun started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.registry.registry import Registry
from tests.support.paths import ROOT


@pytest.mark.timeout(120)
def test_the_first_process_alone_reports_and_registers(tmp_path: Path) -> None:
    options = ["--data", "mnist-mini", "--preset", "snf-glow-tiny", "--max-steps", "6", "--name", "digits", "--json"]
    options += ["--set", "batch_size=8", "--set", "validation_images=8", "--set", "validations=1"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "app.cli.main",
            "train",
            *options,
        ],
        env={**os.environ, "SNF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    for name in ("started", "validation", "checkpoint", "evaluation", "published"):
        assert [event["event"] for event in events].count(name) == 1, name
    assert events[-1]["ref"] == "digits:1"
    assert Registry(tmp_path / "registry").versions("digits") == [1]
