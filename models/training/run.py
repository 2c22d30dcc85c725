"""A complete training: train a flow, calibrate and evaluate it, and write the artifact."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save_file as save_tensors

from models.anomaly.calibration_file import save_calibration
from models.anomaly.fitting.calibrate import calibrate
from models.anomaly.fitting.reference_images import ReferenceImages
from models.artifacts.card import model_card
from models.artifacts.files import CALIBRATION, CARD, PINNED, SAMPLES, WEIGHTS
from models.artifacts.manifest import (
    FILE,
    Evaluation,
    LogDets,
    Manifest,
    PinnedSample,
    TrainingRecord,
    read_manifest,
)
from models.atomic_files import new_folder, sha256_file
from models.datasets import Dataset, DatasetSummary, Images
from models.errors import FolderTaken
from models.flows.architecture import Architecture
from models.images.codec import encode_png, image_grid
from models.images.preprocessing import Preprocessing
from models.loading import image_digest, seal
from models.scoring.engines import Engine, open_engine
from models.scoring.frozen import FrozenFlow, constant_log_dets, freeze
from models.scoring.likelihood import bits_per_dim, score_images
from models.scoring.options import EngineOptions
from models.scoring.sampling import sample_frozen, to_pixels
from models.training.config import TrainingConfig
from models.training.cost.estimate import estimate_training
from models.training.distributed import SINGLE_PROCESS, Ranks
from models.training.loop import Observer, TrainedFlow, Trainer
from models.training.objective import inverse_errors
from models.training.precision import training_precision
from models.training.presets import find_preset
from models.training.validation import FINAL_SAMPLES

SAMPLE_SEED = 0
PINNED_COUNT = 4
"""Number of images that are stored with a model, the first one with its score, to verify it after loading."""
REPORT_EVERY = 500
"""Images between two reports of the evaluation."""


def train(
    dataset: Dataset,
    preset: str,
    config: TrainingConfig,
    folder: Path,
    *,
    observe: Observer,
    should_stop: Callable[[], bool],
    threads: int | None = None,
    job: str | None = None,
    device: str = "cpu",
    ranks: Ranks = SINGLE_PROCESS,
    engine: EngineOptions | None = None,
) -> Path:
    """Train a flow, calibrate and test it, write the complete model to ``folder/artifact`` and return that path.

    If an earlier call has written the model, its path is returned and no flow is trained.

    An interrupted training resumes from ``folder/checkpoints``.

    Args:
        dataset: Images to train, validate, calibrate and test with.
        preset: Name of the preset.
        config: Training settings.
        folder: Folder of checkpoints, sample previews and artifact.
        observe: Function that receives the events.
        should_stop: Called after every step; returns true to end the training early.
        threads: CPU threads of PyTorch; None for PyTorch's default.
        job: Id of the job, which the manifest records.
        device: "cpu", "cuda" or "cuda:N", for the training steps; all that follows runs on the CPU.
        ranks: Processes that share every batch. The first one writes the artifact, the others return before that.
        engine: Engine that calibrates and evaluates.

    Returns:
        The path of the artifact, ``folder/artifact``.

    Raises:
        Interrupted: ``should_stop`` returned true; call again to resume.
        TrainingDiverged: The training diverged.
        DatasetUnfit: The preset cannot have the shape of the images.
        PresetNotFound: There is no such preset.
        FolderTaken: The folder holds a finished training with other settings.
        DeviceNotFound: The device does not exist.
        RanksUnfit: The processes cannot train together.
        EngineUnavailable: The engine is not installed, or does not support the model.
    """
    path = folder / "artifact"
    if (path / FILE).is_file():
        _check_same_run(read_manifest(path), dataset, preset, config)
        return path
    if threads is not None:
        torch.set_num_threads(threads)
    architecture = find_preset(preset).architecture(dataset.image_shape, config.pixel_transform)
    if not ranks.first:
        Trainer(dataset, architecture, config, folder, observe, device, ranks).take_steps(should_stop)
        return path
    try:
        evaluation_steps = _evaluation_steps(dataset, architecture, config)
    except Exception as error:
        # A training must not fail because its remaining time is unknown.
        message = f"the remaining time leaves out the evaluation, whose work cannot be counted: {error}"
        observe({"event": "log", "message": message})
        evaluation_steps = 0.0
    # No name for the trainer: its gradients and moments are freed before the model is evaluated.
    trained = Trainer(dataset, architecture, config, folder, observe, device, ranks, evaluation_steps).run(should_stop)
    observe({"event": "log", "message": "training is done; evaluates and calibrates"})
    precision = training_precision(config, device)
    _write_artifact(path, dataset, preset, config, trained, precision, observe, job, engine)
    return path


def _check_same_run(manifest: Manifest, dataset: Dataset, preset: str, config: TrainingConfig) -> None:
    done = manifest.training
    # Validated again, as JSON has no tuples, and settings of later versions take their defaults.
    given = TrainingConfig.model_validate(done.config)
    if (done.preset, given, done.dataset_digest) != (preset, config, dataset.digest):
        raise FolderTaken(
            f"expected an empty folder or an earlier run of this training, got a finished training of {done.preset} on "
            f"{done.dataset} with other settings; choose another folder"
        )


def _evaluation_steps(dataset: Dataset, architecture: Architecture, config: TrainingConfig) -> float:
    """Return the number of training steps that take as long as the evaluation after training."""
    summary = DatasetSummary(
        dataset.image_shape,
        len(dataset.train),
        len(dataset.statistics),
        len(dataset.calibration),
        len(dataset.test),
        folds=0 if dataset.folds is None else 1,
    )
    # A limit in minutes changes the number of steps, which is not known here.
    estimate = estimate_training(architecture, config.model_copy(update={"max_minutes": None}), summary)
    return config.max_steps * estimate.evaluation_seconds / estimate.training_seconds


def _write_artifact(
    path: Path,
    dataset: Dataset,
    preset: str,
    config: TrainingConfig,
    trained: TrainedFlow,
    precision: str,
    observe: Observer,
    job: str | None,
    options: EngineOptions | None,
) -> None:
    shape = dataset.image_shape
    architecture = find_preset(preset).architecture(shape, config.pixel_transform)
    no_resizing = Preprocessing(channels=shape[0], height=shape[1], width=shape[2])
    log_dets = constant_log_dets(trained.flow, shape)
    frozen = freeze(trained.flow, shape, log_dets)
    engine = open_engine(frozen, options)

    def report(part: str, done: int, images: int) -> None:
        observe({"event": "scoring", "part": part, "done": done, "images": images})

    with new_folder(path) as folder:
        weights = folder / WEIGHTS
        save_tensors({name: value.contiguous() for name, value in trained.flow.state_dict().items()}, weights)
        digest = sha256_file(weights)
        candidates = (dataset.test, dataset.calibration, dataset.statistics)
        pinned = np.ascontiguousarray(next(part for part in candidates if len(part))[:PINNED_COUNT])
        (folder / PINNED).write_bytes(save_arrays({"images": pinned}))
        reference = ReferenceImages(
            dataset.name,
            dataset.digest,
            dataset.statistics,
            dataset.calibration,
            dataset.folds,
            config.suspect_share,
        )
        calibration, summary = calibrate(engine, frozen, digest, trained.flow, reference, pinned[0], report)
        save_calibration(calibration, folder / CALIBRATION)
        test = _log_likelihoods(engine, frozen, digest, dataset.test, report)
        pinned_score = score_images(engine, frozen, digest, pinned[:1])[0]
        dimensions = int(np.prod(shape))
        manifest = Manifest(
            created=datetime.now(UTC).replace(microsecond=0),
            architecture=architecture,
            preprocessing=dataset.preprocessing or no_resizing,
            training=TrainingRecord(
                preset=preset,
                config=config.model_dump(mode="json"),
                dataset=dataset.name,
                dataset_digest=dataset.digest,
                train_images=len(dataset.train),
                provenance=dataset.provenance,
                split=dataset.split,
                steps=trained.steps,
                best_step=trained.best_step,
                seconds=trained.elapsed_seconds,
                precision=precision,
                started_from_commit=_commit(),
                versions={"python": platform.python_version(), "torch": torch.__version__},
                job=job,
            ),
            evaluation=Evaluation(
                validation_bits_per_dim=bits_per_dim(summary.statistics_log_likelihood, dimensions),
                test_bits_per_dim=bits_per_dim(float(test.mean()), dimensions) if len(test) else None,
                test_images=len(test),
                test_nats=-float(test.mean()) if len(test) else None,
                reconstruction_error=max(inverse_errors(trained.flow, shape).values(), default=None),
            ),
            log_dets=LogDets(layers=log_dets, total=sum(log_dets.values()), weights_sha256=digest),
            calibration=summary,
            pinned=PinnedSample(image_sha256=image_digest(pinned[0]), log_likelihood=pinned_score.log_likelihood),
            files={},
        )
        samples = to_pixels(sample_frozen(engine, frozen, FINAL_SAMPLES, seed=SAMPLE_SEED))
        (folder / SAMPLES).write_bytes(encode_png(image_grid(samples)))
        (folder / CARD).write_text(model_card(manifest))
        seal(folder, manifest)
    observe({"event": "evaluation", **manifest.evaluation.model_dump()})


def _log_likelihoods(
    engine: Engine, frozen: FrozenFlow, digest: str, images: Images, report: Callable[[str, int, int], None]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values: list[float] = []
    for start in range(0, len(images), REPORT_EVERY):
        batch = images[start : start + REPORT_EVERY]
        values += [result.log_likelihood for result in score_images(engine, frozen, digest, batch)]
        report("test", len(values), len(images))
    return np.array(values, dtype=np.float64)


def _commit() -> str | None:
    """Return the git commit of the source tree, or None if the tree is no git checkout or git is missing."""
    git = shutil.which("git")
    source = Path(__file__).parents[2]
    if git is None or not (source / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
