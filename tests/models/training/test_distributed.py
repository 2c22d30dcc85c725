"""Training in two processes against training in one: the same, but for the order in which numbers are added."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.errors import DeviceNotFound, RanksUnfit
from snf_models.training.distributed import Ranks, ranks_of_torchrun
from snf_models.training.objective import SelfNormalizingObjective
from tests.models.helpers import dequantised, glow, real_images
from tests.models.training.rank_process import COMPARED, DIED, Outcome, tensors_of, trainer_in
from tests.models.training.runs import report_every
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT
from tests.support.ports import free_port
from tests.support.unmeasured import unmeasured

DIMENSIONS = 16 * 16
TOLERANCE = 1e-4
"""Difference in bits per dimension that the order of additions makes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the trainings of two processes, the second of which died at last: the first one does not wait for it.

    They are forks with the environment that torchrun gives its processes.
    """
    folder = tmp_path_factory.mktemp("ranks")
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = []
    try:
        for rank in ("0", "1"):
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORT_PATH, **together}
            env |= {"RANK": rank, "LOCAL_RANK": rank}
            command = [sys.executable, "-m", "tests.models.training.rank_process", str(folder)]
            with (folder / f"{rank}.log").open("wb") as output:
                processes.append(fork_server().popen(command, stdout=output, env=env, cwd=ROOT))
        codes = [process.wait(280) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    assert (folder / "rank-1.json").is_file(), (folder / "1.log").read_text()
    assert codes == [1, DIED], (folder / "0.log").read_text()
    return folder


def test_torchrun_gives_the_variables_that_the_forks_have_and_ends_all_when_one_dies(tmp_path: Path) -> None:
    """torchrun itself is a fork, and its processes do not import PyTorch, which takes seconds."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.models.training.torchrun_member", str(tmp_path)]
    env = {**unmeasured(), "OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORT_PATH}
    with (tmp_path / "log").open("wb") as output:
        torchrun = fork_server().popen(command, stdout=output, env=env, cwd=ROOT)
    assert torchrun.wait(120) == 1, (tmp_path / "log").read_text()
    given = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert given[0]["MASTER_PORT"].isdecimal()
    for rank, variables in enumerate(given):
        same = {name: given[0][name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        assert variables == {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **same}


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = json.loads((folder / "rank-0.json").read_text())
    return outcomes


@pytest.fixture(scope="module")
def second(folder: Path) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = json.loads((folder / "rank-1.json").read_text())
    return outcomes


def curve(events: list[dict[str, Any]], key: str) -> Tensor:
    return torch.tensor([event[key] for event in events if event["event"] == "metrics"], dtype=torch.float64)


def at_the_end(folder: Path, part: str) -> dict[str, Tensor]:
    return load_file(folder / f"{part}.safetensors")


@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_train_what_one_does(
    name: str, folder: Path, first: dict[str, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_every(0, monkeypatch)
    trainer, events = trainer_in(tmp_path, COMPARED[name])
    trainer.take_steps(lambda: False)
    steps = COMPARED[name]["max_steps"]
    for key in ("bits_per_dim", "reconstruction_error", "learning_rate"):
        assert len(curve(events, key)) == steps
        torch.testing.assert_close(curve(first[name]["events"], key), curve(events, key), rtol=0, atol=TOLERANCE)
    # Six steps move weights by about a thousandth, the order of additions by a ten millionth.
    for part, tolerance in (("weights", 1e-5), ("averaged", 1e-5), ("objective", 10 * TOLERANCE)):
        theirs = tensors_of(trainer)[part]
        for key, value in at_the_end(folder / name, part).items():
            # As much of a log-likelihood in nats as `TOLERANCE` is of one in bits per dimension.
            atol = TOLERANCE * DIMENSIONS * math.log(2) if key == "suspects.deviations" else tolerance
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=atol, equal_nan=True, msg=f"{part}.{key}")


@pytest.mark.parametrize("name", [*COMPARED, "muon", "interrupted", "resumed"])
def test_processes_stay_equal_and_the_first_alone_reports(
    name: str, first: dict[str, Outcome], second: dict[str, Outcome]
) -> None:
    assert first[name]["digests"] == second[name]["digests"], "weights, multipliers and thresholds, to the bit"
    assert first[name]["events"]
    assert second[name]["events"] == []


def test_all_stop_when_any_is_asked_to_and_go_on_from_the_checkpoint(
    folder: Path, first: dict[str, Outcome], second: dict[str, Outcome]
) -> None:
    assert first["interrupted"]["ended"] == second["interrupted"]["ended"] == "stopped after step 3"
    assert first["resumed"]["events"][0]["message"] == "continues from step 3, the newest checkpoint"
    for part in ("weights", "averaged", "optimizer"):
        whole = at_the_end(folder / "plain", part)
        for name, value in at_the_end(folder / "resumed", part).items():
            assert torch.equal(value, whole[name]), f"{part}.{name}"


def test_the_first_process_keeps_the_time(first: dict[str, Outcome], second: dict[str, Outcome]) -> None:
    assert first["timed"]["ended"] == second["timed"]["ended"] == "finished"
    assert first["timed"]["step"] == second["timed"]["step"] < 1_000_000


@pytest.mark.parametrize("name", ["validated", "validated, timed"])
def test_the_first_process_decides_when_to_validate(
    name: str, first: dict[str, Outcome], second: dict[str, Outcome]
) -> None:
    """It alone knows what a validation costs. Where the others decided by themselves, all would wait for each other."""
    assert first[name]["ended"] == second[name]["ended"] == "finished"
    assert first[name]["step"] == second[name]["step"]
    assert first[name]["digests"] == second[name]["digests"]
    assert any(event["event"] == "validation" for event in first[name]["events"])


def test_a_divergence_ends_all_at_the_same_step(first: dict[str, Outcome], second: dict[str, Outcome]) -> None:
    """Each counts the steps that change no weights by itself."""
    assert first["diverging"]["ended"] == second["diverging"]["ended"]
    assert first["diverging"]["ended"].startswith("step ")
    assert first["diverging"]["digests"] == second["diverging"]["digests"]


def test_processes_that_start_apart_are_refused(first: dict[str, Outcome], second: dict[str, Outcome]) -> None:
    assert first["apart"]["ended"] == second["apart"]["ended"]
    assert "process 0 at step 6 of run" in first["apart"]["ended"]
    assert "process 1 at step 0 of run" in first["apart"]["ended"]


def test_more_processes_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RanksUnfit, match="got 2 images for 3 processes"):
        trainer_in(tmp_path, {"max_steps": 2, "batch_size": 2}, Ranks(0, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_processes_without_a_device_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(DeviceNotFound, match="cuda:1"), ranks_of_torchrun("cuda"):
        pass
    with pytest.raises(RanksUnfit, match="got cuda:0"), ranks_of_torchrun("cuda:0"):
        pass


class OneOfThree(Ranks):
    """One of three processes that are computed one after the other: the batch's errors and likelihoods are known."""

    errors: Tensor
    log_likelihoods: Tensor

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the errors of the batch with the gradient of those of the slice, as three processes do."""
        own = value * (share * self.size)
        return own if value.ndim == 0 else self.errors + (own - own.detach())

    def gather(self, values: Tensor, share: float) -> Tensor:
        """Return the log-likelihoods of the batch."""
        return self.log_likelihoods


@pytest.mark.parametrize("suspect_share", [0.0, 0.45])
@pytest.mark.parametrize("multiplier", ["fixed", "geco", "mdmm"])
def test_the_mean_of_the_slices_gradients_is_the_gradient_of_the_batch(multiplier: str, suspect_share: float) -> None:
    """In float64; of three suspects one is all that its process has."""
    flow = glow(16).train().double()
    # A target that no slice meets, so that the quadratic part of the penalty counts.
    settings = {"multiplier": multiplier, "reconstruction_target": 1e-4, "suspect_share": suspect_share}
    config = TrainingConfig.model_validate(settings | {"warmup_steps": 0})
    objective = SelfNormalizingObjective(flow, (1, 16, 16), config).double()
    y, log_det = flow.pixels(dequantised(real_images(3 if suspect_share else 7, 16)))
    parameters = list(flow.parameters())
    batch = objective.loss(flow, y, log_det, 0)
    expected = torch.autograd.grad(batch.value, parameters)
    assert (batch.reconstruction_errors > 2e-4).all()
    got = [torch.zeros_like(gradient) for gradient in expected]
    for rank in range(3):
        ranks = OneOfThree(rank, 3)
        object.__setattr__(ranks, "errors", batch.reconstruction_errors)
        object.__setattr__(ranks, "log_likelihoods", flow.forward_pixels(y, log_det).log_likelihood.detach())
        (part, share), (part_log_det, _) = ranks.share(y), ranks.share(log_det)
        loss = objective.loss(flow, part, part_log_det, 0, ranks, share)
        if suspect_share:
            assert float(loss.trimmed.weight) == pytest.approx(1.5)
        for total, gradient in zip(got, torch.autograd.grad(loss.value, parameters), strict=True):
            total.add_(gradient / 3)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
