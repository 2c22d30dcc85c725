"""Trainings in processes with the environment that torchrun gives: ``python -m ...rank_process FOLDER``.

Each process writes ``FOLDER/rank-N.json``: what it observed in each training, and digests of its tensors at the end.
The first one writes the tensors, too.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

import snf_models.pipeline.schedule
import snf_models.training.divergence
from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import Dataset
from snf_models.errors import Interrupted, RanksUnfit, TrainingDiverged
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS
from snf_models.pipeline.schedule import PhaseSteps, Schedule
from snf_models.training.distributed import SINGLE_PROCESS, Ranks, ranks_of_torchrun
from tests.models.helpers import real_images

Run = Mapping[str, Any]
Outcome = dict[str, Any]

PLAIN: Run = {"max_steps": 6}
DIVERGING: Run = {"max_steps": 40, "learning_rate": 1.0, "gradient_clip": 1e9, "warmup_steps": 0, "batch_size": 8}
COMPARED: dict[str, Run] = {
    "plain": PLAIN,
    "geco, trimmed": {
        **{"max_steps": 6, "multiplier": "geco", "reconstruction_target": 1e-6, "noise_reconstruction": 1.0},
        **{"refresh_inverse_every": 4, "suspect_share": 0.2, "warmup_steps": 2},
    },
    "mdmm, trimmed, uneven slices": {
        **{"max_steps": 6, "multiplier": "mdmm", "reconstruction_target": 1e-6},
        **{"batch_size": 7, "suspect_share": 0.4, "warmup_steps": 2},
    },
}
"""Trainings that one process takes as well."""
DIED = 9
"""Exit code of the second process."""


def digits() -> Dataset:
    """Real digits, 16x16."""
    images = real_images(300, 16)
    return Dataset("digits-16", images[:260], images[260:], images[260:], images[260:], "digest")


def trainer_in(
    folder: Path, run: Run, ranks: Ranks = SINGLE_PROCESS, costs: PhaseSteps | None = None
) -> tuple[Trainer, list[dict[str, Any]]]:
    """Return a trainer and the list that will hold the events. ``costs`` are known to the first process alone."""
    # At larger step sizes training amplifies rounding: the order of the images in a batch changes as much.
    defaults = {"validations": 1, "validation_images": 20, "batch_size": 32, "precision": "float32"}
    config = TrainingConfig.model_validate(defaults | {"learning_rate": 5e-4} | dict(run))
    dataset = digits()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: list[dict[str, Any]] = []
    schedule = Schedule(config, len(dataset.statistics), costs) if ranks.first else None
    return Trainer(dataset, architecture, config, folder, events.append, ranks=ranks, schedule=schedule), events


def tensors_of(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Return copies of the tensors of modules and optimiser, by the name of the part."""
    parts = {name: module.state_dict() for name, module in trainer.modules.items()}
    moments = trainer.optimizer.state_dict()["state"]
    parts["optimizer"] = {f"{index}.{key}": value for index, entry in moments.items() for key, value in entry.items()}
    return {name: {key: value.clone().contiguous() for key, value in part.items()} for name, part in parts.items()}


def train(
    folder: Path,
    run: Run,
    ranks: Ranks,
    wish: Callable[[int], bool] = lambda _step: False,
    costs: PhaseSteps | None = None,
) -> Outcome:
    """Train; return events, digests of the tensors, and how it ended. ``wish`` asks to stop after a step."""
    dist.barrier()  # the first process may still be writing the last checkpoint
    try:
        trainer, events = trainer_in(folder, run, ranks, costs)
        trainer.take_steps(lambda: wish(trainer.state.step))
        ended = "finished"
    except RanksUnfit as error:
        return {"ended": str(error)}
    except (Interrupted, TrainingDiverged) as error:
        ended = str(error)
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        for part, content in tensors_of(trainer).items():
            save_file(content, folder / f"{part}.safetensors")
    digests = {}
    for name in ("flow", "objective"):
        tensors = getattr(trainer, name).state_dict()
        digests |= {
            f"{name}.{key}": hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in tensors.items()
        }
    return {"events": events, "digests": digests, "ended": ended, "step": trainer.state.step}


def main() -> None:
    """Take all trainings, with a report for each step and validations that may be four steps apart."""
    snf_models.pipeline.schedule.STEPS_BETWEEN_VALIDATIONS = 4
    snf_models.training.divergence.REPORT_SECONDS = 0
    snf_models.training.divergence.REPORT_SHARE = 1e9
    folder = Path(sys.argv[1])
    with ranks_of_torchrun() as ranks:
        second = ranks.rank == 1
        outcomes = {name: train(folder / name, run, ranks) for name, run in COMPARED.items()}
        outcomes["muon"] = train(folder / "muon", {"max_steps": 4, "optimizer": "muon"}, ranks)
        outcomes["interrupted"] = train(folder / "resumed", PLAIN, ranks, lambda step: second and step == 3)
        outcomes["resumed"] = train(folder / "resumed", PLAIN, ranks)
        # The second process has a clock of its own: a training that followed it would never end.
        outcomes["timed"] = train(
            folder / "timed", {"max_steps": 1_000_000, "max_minutes": 0.01, "batch_size": 4}, ranks
        )
        # The second process would validate twice, and all the time.
        costly, often = PhaseSteps(validation=50.0), {"max_steps": 8, "validations": 2, "batch_size": 4}
        outcomes["validated"] = train(folder / "validated", often, ranks, costs=costly)
        often_timed = {**often, "max_steps": 1_000_000, "max_minutes": 0.03}
        outcomes["validated, timed"] = train(folder / "validated-timed", often_timed, ranks, costs=costly)
        outcomes["diverging"] = train(folder / "diverging", DIVERGING, ranks)
        outcomes["apart"] = train(folder / "resumed", PLAIN | ({"seed": 1} if second else {}), ranks)
        (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(outcomes))

        def die(step: int) -> bool:
            if second and step == 2:
                os._exit(DIED)
            return False

        train(folder / "dies", {"max_steps": 1_000_000, "batch_size": 4}, ranks, die)


if __name__ == "__main__":
    main()
