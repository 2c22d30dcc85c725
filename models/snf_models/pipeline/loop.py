"""The training loop: optimiser steps, reports, validations and checkpoints, until the budget is used up."""

from __future__ import annotations

import copy
import ctypes
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.devices import fastest_convolutions, find_device, send
from snf_models.bijections.frozen import Inverse
from snf_models.bijections.pixels import MarginalPixels
from snf_models.datasets import Dataset
from snf_models.disk import remove_leftovers, write_atomically
from snf_models.errors import (
    DamagedCheckpoints,
    EngineUnavailable,
    Interrupted,
    RanksUnfit,
    SingularLayer,
    TrainingDiverged,
)
from snf_models.flows.architecture import PixelArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.checkpoint import TrainingState, identity_of, load_averaged, load_checkpoint, save_checkpoint
from snf_models.pipeline.schedule import STEPS_BETWEEN_VALIDATIONS, Schedule
from snf_models.scoring.frozen import FrozenFlow, constant_log_dets, freeze, sample_frozen, to_pixels
from snf_models.scoring.torch_engine import TorchEngine
from snf_models.threads import prefetch, torch_threads
from snf_models.training.batches import Batches
from snf_models.training.distributed import SINGLE_PROCESS, Ranks
from snf_models.training.divergence import FollowedLogDets, ReportHistory, SkippedSteps, is_finite, name_the_cause
from snf_models.training.objective import BatchLoss, Loss, SelfNormalizingObjective, inverse_quality
from snf_models.training.optimizer import (
    average,
    compute_coupling_nets_in,
    lay_out_coupling_nets,
    learning_rate_at,
    make_optimizer,
    training_precision,
)
from snf_runtime.images.batch import stacked
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.scoring.evidence import run_flow
from snf_runtime.scoring.likelihood import bits_per_dim
from snf_runtime.scoring.pixel_density import content_noise

# Numbers of <malloc.h>, and limits and defaults of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_GREATEST_MMAP_THRESHOLD = 32 * 2**20
_DEFAULT_MMAP_MAX = 65536
VARIABLES = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for reuse until :func:`release_memory`; do nothing without glibc."""
    found = _functions()
    if found is None:
        yield
        return
    tune, _ = found
    tune(_TRIM_THRESHOLD, _NEVER)
    tune(_MMAP_THRESHOLD, _GREATEST_MMAP_THRESHOLD)
    tune(_MMAP_MAX, 0)
    try:
        yield
    finally:
        tune(_MMAP_MAX, _DEFAULT_MMAP_MAX)


def release_memory() -> None:
    """Return freed memory to the system. From then on blocks of 32 MB and more go back when freed."""
    found = _functions()
    if found is not None:
        tune, trim = found
        tune(_TRIM_THRESHOLD, 2 * _GREATEST_MMAP_THRESHOLD)
        trim(0)


@contextmanager
def released_memory() -> Iterator[None]:
    """Return freed memory to the system at the end of the block, even by an error."""
    try:
        yield
    finally:
        release_memory()


@cache
def _functions() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return ``mallopt`` and ``malloc_trim`` of glibc; None where they are missing or tuned by the environment."""
    if any(name in os.environ for name in VARIABLES):
        return None
    library = ctypes.CDLL(None)
    try:
        return library.mallopt, library.malloc_trim
    except AttributeError:
        return None


@dataclass(frozen=True, kw_only=True)
class TrainedFlow(TrainingState):
    """A flow with the averaged weights of its best validation, the fewest bits per dimension, and its training."""

    flow: Flow  # in evaluation mode on the CPU


Images: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

INITIALIZATION_IMAGES = 512  # that initialise the activation normalisation of a flow before its first step
BATCH = 100
TILE_PIXELS = BATCH * 32 * 32
"""Most pixels computed at once: more than in scoring, where a result must be the same in every batch."""
PREVIEW_SAMPLES = 16
FINAL_SAMPLES = 64  # number of samples that are stored with the finished model
PREVIEW_SEED = 0
"""Seed of the latents of all previews, and of the samples that are stored with a model: these begin with the same."""
PREVIEWS_KEPT = 50


def validation_tile(image_shape: tuple[int, int, int]) -> int:
    """Return how many images a validation computes together.

    >>> validation_tile((1, 28, 28)), validation_tile((3, 256, 256))
    (100, 1)
    """
    return max(1, min(BATCH, TILE_PIXELS // (image_shape[1] * image_shape[2])))


def trimmed_bits_per_dim(
    frozen: FrozenFlow, images: Images, suspect_share: float, device: str = "cpu"
) -> tuple[float, float]:
    """Return the means with and without suspects. The second selects weights, as suspects get ever less likely."""
    tile = validation_tile(frozen.image_shape)
    try:
        engine = TorchEngine(frozen, tile, device=device)
    except EngineUnavailable:
        engine = TorchEngine(frozen, tile)
    log_likelihoods = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        x = batch + np.concatenate([content_noise(image, "validation") for image in batch])
        log_likelihoods.append(run_flow(engine, frozen, x).terms().sum((1, 2)))
    bits = bits_per_dim(sum(float(part.sum()) for part in log_likelihoods) / len(images), images[0].size)
    left_out = int(suspect_share * len(images))
    if not left_out:
        return bits, bits
    kept = np.sort(np.concatenate(log_likelihoods))[left_out:]
    return bits, bits_per_dim(float(kept.mean()), images[0].size)


def write_preview(frozen: FrozenFlow, folder: Path, step: int) -> Path:
    """Write a PNG of 16 samples, with the same latents at every step. Raises whatever an inverse raises."""
    inverse: Inverse = "learned" if frozen.has_learned_inverse else "exact"
    engine = TorchEngine(frozen, min(PREVIEW_SAMPLES, validation_tile(frozen.image_shape)))
    images = sample_frozen(engine, frozen, PREVIEW_SAMPLES, seed=PREVIEW_SEED, inverse=inverse)
    if not np.isfinite(images).all():
        raise ValueError(f"the {inverse} inverse gave values that are not finite")
    path = folder / f"step-{step:08d}.png"
    write_atomically(path, encode_png(image_grid(to_pixels(images))))
    _delete_old_previews(path)
    return path


def _delete_old_previews(newest: Path) -> None:
    remove_leftovers(newest.parent)
    files = sorted(newest.parent.glob("step-*.png"))
    # Files of later steps are from another run, or this run went back to an earlier checkpoint and writes them anew.
    kept = [file for file in files if file <= newest][-PREVIEWS_KEPT:]
    for file in set(files) - set(kept):
        file.unlink()


Observer = Callable[[dict[str, Any]], None]
"""A function that receives the events of a training, each a dictionary with the key ``event``."""

COMPARISONS = 3
"""Steps with each of two numbers of threads, whose median counts: beside a busy process single steps may be short."""
TOLERANCE = 1.03
"""How many times as long a step with half the threads may take, to leave the other cores to other processes."""


def choose_threads(
    dataset: Dataset, architecture: PixelArchitecture, config: TrainingConfig, timer: Callable[[], float]
) -> int:
    """Return how many threads, all of PyTorch's, half of them, ..., steps of another flow are fastest with."""
    if (most := torch.get_num_threads()) == 1:
        return 1
    few = replace(dataset, train=dataset.train[: config.batch_size])
    with tempfile.TemporaryDirectory() as empty:
        trainer = Trainer(few, architecture, config, Path(empty), lambda _event: None)
    images = trainer.batches.batch(0)

    def seconds(count: int) -> float:
        with torch_threads(count):
            for _ in range(2):  # the first step with another number takes longer
                began = timer()
                with suppress(TrainingDiverged):  # the training itself raises it, unless its other images are sound
                    trainer._step(images, 0, 0.0)
            return timer() - began

    with released_memory():
        while most > 1:
            usual, fewer = map(
                median, zip(*((seconds(most), seconds(most // 2)) for _ in range(COMPARISONS)), strict=True)
            )
            if fewer > TOLERANCE * usual:
                break
            most //= 2
    return most


class Trainer:
    """A training run that resumes from its folder's newest checkpoint; of several processes the first one writes."""

    def __init__(
        self,
        dataset: Dataset,
        architecture: PixelArchitecture,
        config: TrainingConfig,
        folder: Path,
        observe: Observer,
        device: str = "cpu",
        ranks: Ranks = SINGLE_PROCESS,
        schedule: Schedule | None = None,
        start: Flow | None = None,
    ) -> None:
        self.device = find_device(device)
        # Whether a step that is skipped is noticed at the next report, as a GPU would have to be waited for at once.
        self.deferred = self.device.type != "cpu"
        self.ranks = ranks
        self.schedule = schedule or Schedule(config, len(dataset.statistics))
        self.dataset = dataset
        self.config = config
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples"
        self.observe: Observer = observe if ranks.first else lambda _event: None
        batch_size = min(config.batch_size, len(dataset.train))
        self.batches = Batches(dataset.train, batch_size, config.seed, config.augmentation)
        if self.batches.batch_size < ranks.size:
            raise RanksUnfit(
                f"expected at least one image per process in a batch, got {self.batches.batch_size} images for "
                f"{ranks.size} processes; raise batch_size or start fewer processes"
            )
        self.flow = self._fresh_flow(architecture, start)
        self.averaged = copy.deepcopy(self.flow).eval()
        compute_coupling_nets_in(self.averaged, None)
        self.objective = SelfNormalizingObjective(self.flow, dataset.image_shape, config).to(self.device)
        self.modules = {"weights": self.flow, "averaged": self.averaged, "objective": self.objective}
        self.optimizer = make_optimizer(self.flow, config, training_precision(config, str(self.device)))
        digest = identity_of(dataset, architecture, config, start)
        self.state = TrainingState(0, 0.0, None, None, digest)
        if ranks.first:
            remove_leftovers(self.checkpoints)
        restored = load_checkpoint(self.checkpoints, digest, self.modules, self.optimizer)
        if restored is not None:
            self.state = restored
            self.observe({"event": "log", "message": f"continues from step {restored.step}, the newest checkpoint"})
        else:
            if any(self.checkpoints.glob("step-*")):
                self.observe({"event": "log", "message": "begins anew: no checkpoint here is of this training"})
            self._initialize(whiten=config.whitening and start is None)
        ranks.require_same_start(self.state.step, digest)
        self.batch_loss = BatchLoss(self.flow, self.objective, ranks)
        self.loss_of = ranks.wrap(self.batch_loss)
        self.log_dets = FollowedLogDets(self.flow, dataset.image_shape)
        self.skipped = SkippedSteps(self.device, config.max_steps)

    def _fresh_flow(self, architecture: PixelArchitecture, start: Flow | None) -> Flow:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            flow = build_flow(architecture) if start is None else copy.deepcopy(start).float()
        if isinstance(flow.pixels, MarginalPixels):
            flow.pixels.fit(stacked(self.dataset.train))
        precision = training_precision(self.config, str(self.device))
        compute_coupling_nets_in(flow, torch.bfloat16 if precision == "bfloat16" else None)
        lay_out_coupling_nets(flow, precision, self.device.type)
        flow.recompute = self.config.recompute
        return flow.to(self.device).train()

    @kept_memory()
    def _initialize(self, *, whiten: bool) -> None:
        count = min(INITIALIZATION_IMAGES, len(self.dataset.train))
        batch = replace(self.batches, batch_size=count).batch(0)
        self.flow.initialize(batch.to(self.device), whiten=whiten)
        self.averaged.load_state_dict(self.flow.state_dict())

    def run(self, should_stop: Callable[[], bool]) -> TrainedFlow:
        """Train, and return the best flow; raise ``Interrupted``, ``TrainingDiverged``, ``DamagedCheckpoints``."""
        self.take_steps(should_stop)
        if self.state.best_step is None or self.state.best_bits_per_dim is None:
            raise TrainingDiverged(f"no validation gave a finite likelihood; {self._advice()}")
        kept_step = load_averaged(self.checkpoints, self.state, self.averaged)
        if kept_step is None:
            raise DamagedCheckpoints(f"no checkpoint in {self.checkpoints.name} can be read")
        state = self.state
        course = vars(state) | {"best_step": kept_step}
        if state.last_validation is None and state.step >= STEPS_BETWEEN_VALIDATIONS:
            # With a single validation, the first report stands for the first one.
            course |= {"first_validation": state.first_bits_per_dim, "last_validation": state.first_validation}
        return TrainedFlow(**course, flow=self.averaged.cpu())

    def take_steps(self, should_stop: Callable[[], bool]) -> None:
        """Take all steps without loading the best validation; raise ``Interrupted``, ``TrainingDiverged``."""
        with released_memory(), closing(self._batches()) as batches, fastest_convolutions(self.device):
            self._take_steps(batches, should_stop)

    def _batches(self) -> Generator[torch.Tensor]:
        """Yield batches without end. For a GPU a thread prepares two ahead, which would slow a CPU's steps."""
        batches = (self.batches.batch(step) for step in itertools.count(self.state.step))
        if self.device.type == "cpu":
            yield from batches
            return
        with closing(prefetch(batches)) as prepared:
            for batch in prepared:
                yield send(batch, self.device)

    def _take_steps(self, batches: Iterator[torch.Tensor], should_stop: Callable[[], bool]) -> None:
        started = time.monotonic() - self.state.elapsed_seconds
        history = ReportHistory(self.state.step, self.state.first_bits_per_dim)

        def clock() -> float:
            # That of the first process, so that all of them report and save at the same steps.
            return self.ranks.value_of_first(time.monotonic() - started)

        last_checkpoint = clock()
        self.schedule.resume(self.state)
        progress = self._progress()
        if progress < 1:
            self.log_dets.start(self.flow)
        self.observe({"event": "started", "step": self.state.step, "steps": self.schedule.expected_steps(self.state)})
        while progress < 1:
            loss = self._step(next(batches), self.state.step, progress)
            elapsed = clock()
            self.state = replace(self.state, step=self.state.step + 1, elapsed_seconds=elapsed)
            before, progress = progress, self._progress()
            if (history.due(elapsed) or progress >= 1) and self._was_applied():
                self._report(loss, history)
            # Called before anything is written: an attempt that lost its lease ends here.
            stop = self.ranks.any(should_stop())
            # As the first process finds: the others know neither its costs nor how long its validations take.
            images = int(self.ranks.value_of_first(self.schedule.validation_images(self.state, before)))
            if images or progress >= 1:
                self._validate(images, last=progress >= 1)
                last_checkpoint = clock()
            elif elapsed - last_checkpoint >= self.config.checkpoint_seconds:
                self._save()
                last_checkpoint = clock()
            if stop:
                self._save()
                raise Interrupted(f"stopped after step {self.state.step}")

    def _progress(self) -> float:
        """Return the used share of the budget, which is the same in all processes."""
        progress = self.schedule.advance(self.state)
        return progress if self.schedule.deadline is None else self.ranks.value_of_first(progress)

    @kept_memory()
    def _step(self, images: torch.Tensor, step: int, progress: float) -> Loss:
        """Take an optimiser step, unless loss or gradient is not finite. The program never waits for a GPU."""
        loss: Loss = self.loss_of(images, step)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss.value)
        gradients = [parameter.grad for parameter in self.flow.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        applied = loss.value.isfinite() & norm.isfinite()
        self.skipped.add(~applied, step)
        if self.deferred:
            # The fused optimiser leaves weights and moments as they are where this is 1.
            self.optimizer.found_inf = (~applied).float()
        elif not applied:
            self._was_applied()
            return loss
        if self.deferred or norm > self.config.gradient_clip:
            # On a CPU only then: the product reads and writes every gradient.
            torch.nn.utils.clip_grads_with_norm_(self.flow.parameters(), self.config.gradient_clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.config, step, progress)
        self.optimizer.step()
        self.objective.update(loss, step, applied)
        average(self.averaged, self.flow, self.config.ema_decay, step, applied if self.deferred else None)
        return loss

    def _was_applied(self) -> bool:
        """Return whether the last step changed the weights; all processes must call. Raises ``TrainingDiverged``."""
        skips = self.skipped.read()
        if skips.new:
            y, _ = self.batch_loss.transform_pixels(self.batches.batch(skips.last).to(self.device))
            cause = name_the_cause(self.flow, y)
            if not skips.in_a_row:  # the weights have changed since then
                cause += f" (with the weights of step {self.state.step})"
            if skips.too_many or not is_finite(self.flow):
                raise TrainingDiverged(f"step {skips.last}: {cause}; {self._advice()}")
            # A single image that is far from all others can overflow the couplings of a flow that has seen few images.
            self.observe({"event": "log", "message": f"{skips}: {cause}"})
        return skips.in_a_row == 0

    def _report(self, loss: Loss, history: ReportHistory) -> None:
        """Report the metrics of the last step; raise ``TrainingDiverged`` if bits/dim have risen too far."""
        began = time.monotonic()
        omitted = self.log_dets.total()
        bits, learned_bits = (
            bits_per_dim(float(mean) + omitted, math.prod(self.dataset.image_shape))
            for mean in (loss.log_likelihood, loss.kept_log_likelihood)
        )
        rate = history.add(self.state.step, learned_bits, self.state.elapsed_seconds)
        self.state = replace(self.state, first_bits_per_dim=history.first_bits)
        if self.ranks.any(history.diverged):
            rise = f"bits/dim rose from {history.first_bits:.2f} to {learned_bits:.2f}"
            raise TrainingDiverged(f"step {self.state.step}: {rise}; {self._advice()}")
        history.took(self.ranks.value_of_first(time.monotonic() - began))
        self.observe(
            {
                "event": "metrics",
                "step": self.state.step,
                "steps": self.schedule.expected_steps(self.state),
                "progress": self.schedule.fraction(self.state),
                "epoch": self.state.step // self.batches.steps_per_epoch,
                "images_per_second": None if rate is None else rate * self.batches.batch_size,
                "bits_per_dim": bits,
                "reconstruction_error": float(loss.reconstruction_error),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "eta_seconds": self.schedule.seconds_left(self.state),
            }
        )

    def _validate(self, count: int, *, last: bool = False) -> None:
        """Validate averaged weights, then save and draw samples; if worse than the first, measure training images."""
        self._was_applied()
        release_memory()
        if not self.ranks.first:
            return
        began = time.monotonic()
        frozen = self._freeze(last=last)
        images, share = stacked(self.dataset.statistics[:count]), self.config.suspect_share
        bits, kept = trimmed_bits_per_dim(frozen, images, share, str(self.device))
        state = self.state
        if math.isfinite(kept) and (state.best_bits_per_dim is None or kept < state.best_bits_per_dim):
            self.state = replace(state, best_step=state.step, best_bits_per_dim=kept)
        if state.first_validation is not None:
            self.state = replace(self.state, last_validation=kept)
        elif math.isfinite(kept):
            self.state = replace(self.state, first_validation=kept)
        if last and state.first_validation is not None and not kept <= state.first_validation:
            self._measure_overfitting(frozen, count)
        figures = {"bits_per_dim": bits} | ({"kept_bits_per_dim": kept} if share else {})
        if self.schedule.measures_inverses(state, time.monotonic() - began):
            figures |= self._inverse_quality()
        self.observe({"event": "validation", "step": state.step, "images": count, **figures})
        self.state = replace(self.state, finished=last)
        self._save()
        self._preview(frozen)
        seconds = time.monotonic() - began
        self.schedule.validated(seconds)
        self.state = replace(
            self.state,
            elapsed_seconds=state.elapsed_seconds + seconds,
            validation_seconds=state.validation_seconds + seconds,
        )

    def _measure_overfitting(self, frozen: FrozenFlow, count: int) -> None:
        state, images = self.state, stacked(self.dataset.train)
        seen = images[:: max(1, len(images) // count)][:count]
        training = trimmed_bits_per_dim(frozen, seen, self.config.suspect_share, str(self.device))[1]
        self.state = replace(state, last_training=training)
        self.observe(
            {
                "event": "log",
                "message": f"held-out images rose from {state.first_validation:.4f} to {state.last_validation:.4f} "
                f"bits/dim, training images have {training:.4f} at the end; weights of step {state.best_step} are kept",
            }
        )

    def _freeze(self, *, last: bool) -> FrozenFlow:
        """Freeze the averaged flow with its log-dets, from which reports go on; raise ``TrainingDiverged``."""
        averaged = self.averaged if self.device.type == "cpu" else copy.deepcopy(self.averaged).cpu()
        try:
            log_dets = constant_log_dets(averaged, self.dataset.image_shape)
        except SingularLayer as error:
            raise TrainingDiverged(f"step {self.state.step}: {error}; {self._advice()}") from error
        if not last:
            self.log_dets.start(self.averaged, log_dets)
        return freeze(averaged, self.dataset.image_shape, log_dets)

    def _inverse_quality(self) -> dict[str, Any]:
        by_layer = inverse_quality(self.averaged, self.dataset.image_shape)
        if not by_layer:
            return {}
        return {
            "inverse_errors": {name: quality.error for name, quality in by_layer.items()},
            "inverse_error_bounds": {name: quality.bound for name, quality in by_layer.items()},
            "multipliers": self.objective.multiplier.values().tolist(),
        }

    def _save(self) -> None:
        self._was_applied()
        if not self.ranks.first:
            return
        save_checkpoint(self.checkpoints, self.state, self.modules, self.optimizer)
        self.observe({"event": "checkpoint", "step": self.state.step})

    def _preview(self, frozen: FrozenFlow) -> None:
        step = self.state.step
        try:
            path = write_preview(frozen, self.samples, step)
        except Exception as error:
            # A preview must not end a training, whatever failed. The text of an OSError contains the whole path.
            reason = error.strerror if isinstance(error, OSError) else error
            self.observe({"event": "log", "message": f"no samples of step {step}: {reason}"})
        else:
            self.observe({"event": "samples", "step": step, "file": f"{self.samples.name}/{path.name}"})

    def _advice(self) -> str:
        size, usual = self.batches.batch_size, TrainingConfig.model_fields["batch_size"].default
        lower = f"a smaller learning_rate than {self.config.learning_rate:g} or more warmup_steps may help"
        if size >= usual:
            return lower
        images = "" if size == self.config.batch_size else ", which takes as many training images"
        larger = f"set batch_size to {usual} or more{images}"
        return f"batches of {size} images are small for this flow: {larger}; else {lower}"
