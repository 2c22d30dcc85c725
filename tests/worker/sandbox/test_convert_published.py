"""Conversion of a published checkpoint in a process with limits: the same flow, and nothing from a hostile file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.published.convert_checkpoint import published_flow
from models.published.errors import CheckpointRefused
from tests.models.published.layers import Published, glow
from worker.sandbox import convert_published as module
from worker.sandbox.convert_published import convert, convert_published
from worker.sandbox.process import ProcessLimits

SHAPE = (1, 8, 8)


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.file),)


def saved(folder: Path, content: object) -> Path:
    path = folder / "checkpoint.tar"
    torch.save(content, path)
    return path


@pytest.mark.usefixtures("new_sandboxes")
def test_the_flow_of_the_child_is_that_of_a_checkpoint_with_all_that_the_published_experiments_save(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    published = glow()
    optimizer = torch.optim.Adam(published.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=1.0)
    sum(parameter.sum() for parameter in published.parameters()).backward()
    optimizer.step()
    scheduler.step()
    times = np.array([1.0, 2.0])
    state = published.state_dict()
    content = {
        "summary": {
            **{"Epoch": 3, "Best Val LogPx": torch.tensor(-1.0), "Test LogPx": float("-inf")},
            **{"Batch Time Mean": times.mean(axis=0), "Batch Time Std": np.sqrt(times.std(axis=0))},
        },
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "config": {"name": "flow", "log_timing": True, "max_eval_ex": float("inf"), "checkpoint_path": None},
    }
    assert "0.distribution.empty" in state
    architecture, flow = convert_published(saved(tmp_path, content), SHAPE, exact=False)
    assert (architecture.image_shape, architecture.pixel_transform) == (SHAPE, "logit")
    found, expected = flow.state_dict(), published_flow(state, SHAPE).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert torch.equal(found["levels.0.steps.0.shift"].flatten(), state["5.translation"])


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path, {"model_state_dict": glow().state_dict(), "config": Hostile(trace)})
    with pytest.raises(CheckpointRefused, match=r"whose code is not run \(UnpicklingError\)$") as caught:
        convert(path, SHAPE, exact=False)
    assert caught.value.slug == "checkpoint-refused"
    assert not trace.exists()


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, glow().state_dict())
    cut = tmp_path / "cut.tar"
    for content in (whole.read_bytes()[:2000], b"", b"no checkpoint"):
        cut.write_bytes(content)
        with pytest.raises(CheckpointRefused, match=r"cut\.tar: expected tensors that torch\.save wrote"):
            convert(cut, SHAPE, exact=False)
    with pytest.raises(CheckpointRefused, match=r"checkpoint\.tar: expected a state dictionary"):
        convert(saved(tmp_path, torch.zeros(3)), SHAPE, exact=False)
    with pytest.raises(CheckpointRefused, match=r"checkpoint\.tar: expected layers after the preprocessing"):
        convert(saved(tmp_path, Published().state_dict()), SHAPE, exact=False)


@pytest.mark.usefixtures("new_sandboxes")
def test_a_small_file_of_huge_tensors_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"4.W": torch.zeros(1).expand(2**20, 2**20)})
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointRefused, match=r"checkpoint\.tar takes more than [0-9]+ bytes of memory"):
        convert_published(path, SHAPE, exact=False)


@pytest.mark.usefixtures("new_sandboxes")
def test_a_compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2**29
    monkeypatch.setattr(module, "LIMITS", ProcessLimits(size, 60, 120))
    small = saved(tmp_path, {"4.W": torch.zeros(size // 4).expand(1, -1)[:, :1].clone()})
    bomb = tmp_path / "bomb.tar"
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            if name.endswith("data/0"):
                with target.open(name, "w") as record:
                    for _ in range(size // 2**20):
                        record.write(bytes(2**20))
            else:
                target.writestr(name, source.read(name))
    assert bomb.stat().st_size < 10_000_000
    with pytest.raises(CheckpointRefused, match=r"reading bomb\.tar takes more than 536870912 bytes of memory"):
        convert_published(bomb, SHAPE, exact=False)


@pytest.mark.usefixtures("new_sandboxes")
def test_over_a_limit_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, glow().state_dict())
    monkeypatch.setattr(module, "LIMITS", ProcessLimits(2**32, 60, 0.2))
    with pytest.raises(CheckpointRefused, match=r"reading checkpoint\.tar takes more than 0\.2 s"):
        convert_published(path, SHAPE, exact=False)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(CheckpointRefused, match=r"expected a checkpoint of at most 100 bytes, got [0-9]+"):
        convert_published(path, SHAPE, exact=False)
