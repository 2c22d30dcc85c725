"""A complete training: train a flow, calibrate and evaluate it, and write the artifact."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.reference_images import (
    MAX_EVIDENCE_BYTES,
    ImageRows,
    every_image,
    evidence_bytes,
    first_copies,
    one_fold_for_copies,
)
from snf_models.artifacts.manifest import FILE, Manifest, read_manifest
from snf_models.bijections.devices import find_device
from snf_models.datasets import Dataset, DatasetSummary
from snf_models.disk import make_folder, write_atomically
from snf_models.errors import ArchitectureInvalid, FolderTaken, Interrupted
from snf_models.features.backbones import DEFAULT_FOLDER, BackboneStore
from snf_models.features.extractor import FeatureExtractor
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.flows.build import describe_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.architecture_file import document_of, parse_architecture, sentence
from snf_models.pipeline.artifact import TrainedModel, write_artifact
from snf_models.pipeline.checkpoint import earlier_settings, weights_of
from snf_models.pipeline.feature_fit import FittedFeatures, StepsPlan, fit_features
from snf_models.pipeline.loop import Observer, Trainer, choose_threads, release_memory
from snf_models.pipeline.presets import PRESETS, ExpectedRanks, TrainingRecipe, find_preset, whole_folds
from snf_models.pipeline.schedule import Schedule, phases_in_steps
from snf_models.scoring import EngineOptions
from snf_models.scoring.open_density import open_extractor
from snf_models.texts import value_text
from snf_models.threads import torch_threads
from snf_models.training.distributed import SINGLE_PROCESS, Ranks
from snf_models.training.optimizer import training_precision
from snf_runtime.images.batch import stacked

RUN_FILE = "checkpoints/run.json"  # the record, beside the checkpoints that belong to it


class RunRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    preset: str  # name of the recipe
    dataset: str
    dataset_digest: str
    config: dict[str, Any]
    architecture: str | None  # SHA-256 with given initial weights; None for a preset
    threads: int | None = None  # of a step, which the last bits of the weights depend on; None if unknown

    @classmethod
    def of(
        cls,
        preset: str,
        dataset: tuple[str, str],
        config: TrainingConfig,
        architecture: BaseModel | None,
        weights: bytes = b"",
    ) -> Self:
        """Make a record. ``dataset`` is name and digest; ``architecture`` is None if the settings determine it."""
        described = None if architecture is None else architecture.model_dump_json().encode() + weights
        return cls(
            preset=preset,
            dataset=dataset[0],
            dataset_digest=dataset[1],
            config=config.model_dump(mode="json"),
            architecture=None if described is None else hashlib.sha256(described).hexdigest(),
        )

    def differences(self, other: RunRecord) -> list[str]:
        """Return a text for each difference; raise ``pydantic.ValidationError`` for settings of another version."""
        pairs: dict[str, tuple[Any, Any]] = {
            "preset": (self.preset, other.preset),
            "dataset": (self.dataset, other.dataset),
        }
        # Settings that an earlier version did not have take their defaults.
        settings = TrainingConfig.model_validate(self.config).model_dump(mode="json")
        pairs |= {name: (value, other.config[name]) for name, value in settings.items()}
        found = [
            f"{name}: expected {value_text(one)}, got {value_text(two)}"
            for name, (one, two) in pairs.items()
            if one != two
        ]
        if self.dataset == other.dataset and self.dataset_digest != other.dataset_digest:
            found.append(f"the images of {self.dataset} have changed")
        if self.preset == other.preset and self.architecture != other.architecture:
            found.append(f"the layers of {self.preset} have changed")
        return found

    def require_same(self, other: RunRecord, folder: Path, state: str) -> None:
        """Raise ``FolderTaken`` with the differences; ``state`` is such as "an interrupted training"."""
        try:
            differences = self.differences(other)
        except ValidationError as error:
            raise FolderTaken(f"{folder} holds {state} of another version of this program") from error
        if differences:
            raise FolderTaken(f"{folder} holds {state} with other settings: {'; '.join(differences)}")


def begun_config(folder: Path, recipe: TrainingRecipe, parameters: Mapping[str, Any]) -> TrainingConfig:
    """Return the settings of a run. A resumed one gets usual defaults for settings that its version did not have."""
    path = folder / RUN_FILE
    if not any(path.parent.glob("step-*")):
        return recipe.config(parameters)
    try:
        known = RunRecord.model_validate_json(path.read_bytes()).config
    except (FileNotFoundError, ValidationError):
        known = {}
    missing = {
        name: value for name, value in earlier_settings().items() if name in recipe.parameters and name not in known
    }
    minutes, steps = recipe.defaults.get("max_minutes"), TrainingConfig.model_fields["max_steps"].default
    if minutes is not None and "max_steps" not in recipe.defaults and "max_minutes" not in parameters:
        missing |= {"max_steps": steps} if known.get("max_steps") == steps else {}
    return recipe.config({**missing, **parameters})


def stored_threads(folder: Path, run: RunRecord) -> int | None:
    """Return the threads of the run with checkpoints here, if any; raise ``FolderTaken`` if it is another one."""
    path = folder / RUN_FILE
    if not path.exists() or not any(path.parent.glob("step-*")):
        return None
    try:
        earlier = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FolderTaken(f"{folder} holds checkpoints, and its {path.name} is damaged") from error
    earlier.require_same(run, folder, "an interrupted training")
    return earlier.threads


def claim_folder(folder: Path, run: RunRecord) -> None:
    """Write the record; raise ``FolderTaken`` if the folder has checkpoints of another run."""
    stored_threads(folder, run)
    write_atomically(folder / RUN_FILE, run.model_dump_json(indent=1).encode())


MAX_FOLDED_BYTES = 2 * MAX_EVIDENCE_BYTES
"""Most bytes of the evidence of images under all fits that are repeated in folds."""
TIMED_IMAGES = 8  # images by which the speed of a backbone is measured


def train(
    dataset: Dataset,
    recipe: str | TrainingRecipe | Flow,
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
    began: float | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> Path:
    """Train a flow, calibrate and test it, and write the complete model to ``folder/artifact``.

    If an earlier call has written the model, its path is returned and no flow is trained.

    An interrupted training resumes from ``folder/checkpoints``.

    Args:
        dataset: Images to train, validate, calibrate and test with.
        recipe: Name of a preset; a preset, or an architecture from a file; or a flow over pixels that was built by hand
            of registered layers, whose weights are where the training starts. The flow itself is not changed.
            The model is in float32.
        config: Training settings. A flow keeps its own pixel transform.
        folder: Folder of checkpoints, sample previews and artifact.
        observe: Function that receives the events.
        should_stop: Called after every step; returns true to end the training early.
        threads: CPU threads of PyTorch, which the last bits of the weights depend on. None to choose how many of them
            the steps take by a comparison at the start; a resumed training keeps the number.
        job: Id of the job, which the manifest records.
        device: "cpu", "cuda" or "cuda:N", for the training steps; all that follows runs on the CPU.
        ranks: Processes that share every batch. The first one writes the artifact, the others return before that.
        engine: Engine that calibrates and evaluates.
        began: Start of the process, by ``time.monotonic``, from where a budget in minutes counts; None for now.
        timer: Clock, in seconds, of the comparison that chooses the number of threads.

    Returns:
        The path of the artifact, ``folder/artifact``.

    Raises:
        Interrupted: ``should_stop`` returned true; call again to resume.
        TrainingDiverged: The training diverged.
        DatasetUnfit: The recipe cannot have the shape of the images.
        ArchitectureInvalid: A layer cannot take its images, or belongs to no registered type, or a setting is
            for layers that the flow does not have, or ``whitening`` is set for a flow that was built by hand.
        PresetNotFound: There is no such preset.
        FolderTaken: The folder holds a finished or interrupted training with other settings, which the text names.
        DeviceNotFound: The device does not exist.
        RanksUnfit: The processes cannot train together.
        EngineUnavailable: The engine does not support the model.
    """
    path = folder / "artifact"
    began = time.monotonic() if began is None else began
    observe = _rising(observe)
    start = recipe if isinstance(recipe, Flow) else None
    chosen = _recipe_of(recipe, dataset)
    if start is not None:
        if config.whitening:
            raise ArchitectureInvalid("whitening: a flow built by hand starts from its own weights, leave it false")
        config = config.model_copy(update={"pixel_transform": chosen.defaults["pixel_transform"]})
    if (path / FILE).is_file():
        _require_same_run(read_manifest(path), dataset, chosen, config, folder)
        return path
    if threads is not None:
        torch.set_num_threads(threads)
    options = engine or EngineOptions()
    architecture = chosen.architecture_for(dataset.image_shape, config, options.backbones)
    flow_architecture = architecture.pixels if isinstance(architecture, HybridArchitecture) else architecture
    if not isinstance(flow_architecture, FeatureArchitecture):
        find_device(device)  # a device that does not exist is refused before anything is written
        described = None if chosen.name in PRESETS else architecture
        run = RunRecord.of(chosen.name, (dataset.name, dataset.digest), config, described, weights_of(start))
        count, stored = torch.get_num_threads(), stored_threads(folder, run)
        if threads is None and device == "cpu" and ranks.alone:
            count = _threads_of_steps(
                stored, partial(choose_threads, dataset, flow_architecture, config, timer), observe
            )
        if ranks.first:
            claim_folder(folder, run.model_copy(update={"threads": count}))
    if not ranks.first:
        if not isinstance(flow_architecture, FeatureArchitecture):
            Trainer(dataset, flow_architecture, config, folder, observe, device, ranks, start=start).take_steps(
                should_stop
            )
            release_memory()
        return path
    ranks_expected = ExpectedRanks.of(architecture, config, DatasetSummary.of(dataset))
    observe({"event": "log", "message": ranks_expected.sentence})
    trained = None
    costs = phases_in_steps(config, DatasetSummary.of(dataset))
    if isinstance(architecture, HybridArchitecture):
        costs = replace(costs, features_seconds=_seconds_of_fit(dataset, architecture.features, config, options))
    schedule = Schedule(config, len(dataset.statistics), costs, began)
    if not isinstance(flow_architecture, FeatureArchitecture):
        # No name for the trainer: its gradients and moments are freed before the model is evaluated.
        with torch_threads(count):
            trained = Trainer(dataset, flow_architecture, config, folder, observe, device, ranks, schedule, start).run(
                should_stop
            )
        release_memory()
        spent = f"{trained.elapsed_seconds:.1f} s, {trained.validation_seconds:.1f} s of them for validation"
        observe({"event": "log", "message": f"trained {trained.step} steps in {spent}; evaluates and calibrates"})
    fitted, fit_began = None, time.monotonic()
    if isinstance(architecture, FeatureArchitecture | HybridArchitecture):
        fitted = _fit_features(dataset, architecture, config, folder, options, observe, should_stop)
    model = TrainedModel.of(architecture, trained, fitted, time.monotonic() - fit_began)
    precision = training_precision(config, device) if trained is not None else "float32"
    write_artifact(path, dataset, chosen, config, model, precision, observe, job, source_commit(), options, schedule)
    return path


def _threads_of_steps(stored: int | None, choose: Callable[[], int], observe: Observer) -> int:
    """Return the number of threads that a training began with, at most PyTorch's, or else choose one."""
    most = torch.get_num_threads()
    count = choose() if stored is None else min(stored, most)
    change = "" if stored in {None, count} else f"; it began with {stored}, so that the last bits of its weights change"
    observe({"event": "log", "message": f"trains with {count} of {most} CPU threads{change}"})
    return count


def _recipe_of(recipe: str | TrainingRecipe | Flow, dataset: Dataset) -> TrainingRecipe:
    if isinstance(recipe, str):
        return find_preset(recipe)
    if not isinstance(recipe, Flow):
        return recipe
    try:
        described = describe_flow(recipe, dataset.image_shape)
    except ValidationError as error:
        raise ArchitectureInvalid(sentence(error, None)) from error
    except ValueError as error:
        raise ArchitectureInvalid(str(error)) from error
    return parse_architecture(document_of(described, "built-by-hand", {}))


def _seconds_of_fit(
    dataset: Dataset, architecture: FeatureArchitecture, config: TrainingConfig, options: EngineOptions
) -> float:
    """Return the expected seconds of the backbone for all images of a hybrid model, measured on a few of them."""
    extractor = _open_backbone(architecture, config, options)
    few = stacked(dataset.train[:TIMED_IMAGES])
    extractor(few)
    began = time.monotonic()
    extractor(few)
    passes = 3 if config.suspect_share else 1  # suspects are found by a first fit, and left out of a second one
    images = passes * len(dataset.train) + len(dataset.statistics) + len(dataset.calibration) + len(dataset.test)
    return images * (time.monotonic() - began) / len(few)


def _open_backbone(
    architecture: FeatureArchitecture, config: TrainingConfig, options: EngineOptions
) -> FeatureExtractor:
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    return open_extractor(
        store, store.find(config.backbone), architecture.image_shape, architecture.input_size, options
    )


def _fit_features(
    dataset: Dataset,
    architecture: FeatureArchitecture | HybridArchitecture,
    config: TrainingConfig,
    folder: Path,
    options: EngineOptions,
    observe: Observer,
    should_stop: Callable[[], bool],
) -> FittedFeatures:
    features = architecture if isinstance(architecture, FeatureArchitecture) else architecture.features
    # A hybrid model is calibrated on images that its flow over pixels has not seen, in folds or not.
    whole = features is architecture and whole_folds(config, DatasetSummary.of(dataset))
    folds = folds_of_fit(dataset, features, observe) if whole else None
    images: ImageRows = every_image(dataset) if folds is not None else dataset.train
    if folds is not None:
        # As in the calibration: no fit has seen a copy of an image that it ranks.
        folds = one_fold_for_copies(folds, first_copies(images))
    extractor = _open_backbone(features, config, options)

    def report(part: str, done: int, total: int) -> None:
        observe({"event": "scoring", "part": part, "done": done, "images": total})
        if should_stop():
            raise Interrupted("asked to stop while fitting")

    def log(message: str) -> None:
        observe({"event": "log", "message": message})

    plan = None
    if config.feature_steps and dataset.folds is not None:
        log("too few images to try Glow steps over features")
    elif config.feature_steps:
        make_folder(folder)
        plan = StepsPlan(config.feature_steps, config.feature_updates, config.seed, folder)
    fitted = fit_features(images, extractor, features, report, folds, config.suspect_share, plan)
    if fitted.steps is not None:
        log(fitted.steps.summary())
    return fitted


def folds_of_fit(dataset: Dataset, architecture: FeatureArchitecture, observe: Observer) -> NDArray[np.int8] | None:
    """Return the fold of each image, or None if the fit is not repeated: too many images or places."""
    folds = dataset.whole_folds
    if folds is None:
        return None
    # Of all images under all fits, and of those outside each fold under another one.
    fits = 2 * int(folds.max() + 1)
    if evidence_bytes(every_image(dataset), architecture, fits) <= MAX_FOLDED_BYTES:
        return folds
    observe({"event": "log", "message": "the images have too many places to repeat the fit without each fold of them"})
    return None


def _require_same_run(
    manifest: Manifest, dataset: Dataset, recipe: TrainingRecipe, config: TrainingConfig, folder: Path
) -> None:
    done, custom = manifest.training, recipe.name not in PRESETS
    given = TrainingConfig.model_validate({**recipe.defaults, **earlier_settings(), **done.config})
    # Of layers that were given with their weights, the layers alone are compared.
    architectures = (
        (manifest.architecture, recipe.architecture_for(dataset.image_shape, config)) if custom else (None,) * 2
    )
    finished = RunRecord.of(done.preset, (done.dataset, done.dataset_digest), given, architectures[0])
    run = RunRecord.of(recipe.name, (dataset.name, dataset.digest), config, architectures[1])
    finished.require_same(run, folder, "a finished training")


def _rising(observe: Observer) -> Observer:
    """Return an observer that passes events on, with a progress that never falls."""
    highest = 0.0

    def forward(event: dict[str, Any]) -> None:
        nonlocal highest
        if "progress" in event:
            highest = max(highest, event["progress"])
            event = {**event, "progress": highest}
        observe(event)

    return forward


def source_commit() -> str | None:
    """Return the commit of the source, or None without git or a checkout."""
    git = shutil.which("git")
    source = Path(__file__).parents[3]
    if git is None or not (source / ".git").exists():
        return None
    answer = subprocess.run([git, "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
