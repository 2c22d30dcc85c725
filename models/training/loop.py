"""The training loop: steps, validation, checkpoints, and the budget that ends it."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.bijections.coupling import CouplingNet
from models.bijections.pixels import MarginalPixels
from models.datasets import Dataset
from models.devices import find_device, training_precision
from models.errors import DamagedCheckpoints, RanksUnfit, TrainingDiverged
from models.flows.architecture import Architecture
from models.flows.build import build_flow
from models.flows.flow import Flow
from models.scoring.likelihood import bits_per_dim
from models.training.checkpoint import TrainingState, load_averaged, load_checkpoint, save_checkpoint
from models.training.config import INITIALIZATION_IMAGES, TrainingConfig
from models.training.data import Batches
from models.training.distributed import Ranks
from models.training.divergence import name_the_cause
from models.training.objective import Loss, SelfNormalizingObjective, inverse_quality
from models.training.previews import write_preview
from models.training.validation import omitted_log_det, trimmed_bits_per_dim

REPORT_SECONDS = 0.5
DIVERGED_BITS = 10.0
DIVERGED_REPORTS = 20
"""So many reports in a row so many bits/dim worse than the first one count as divergence; a spike alone does not."""

Observer = Callable[[dict[str, Any]], None]


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is written and a later call goes on from there."""


@dataclass(frozen=True)
class TrainedFlow:
    """A flow with the averaged weights of its best validation, and how it came to be; bits/dim leave suspects out."""

    flow: Flow
    steps: int
    best_step: int
    validation_bits_per_dim: float
    elapsed_seconds: float


class Reports:
    """When the observer was told last, and what bits/dim were at first."""

    def __init__(self, step: int) -> None:
        self.first_bits = math.inf
        self.bad_in_a_row = 0
        self._step = step
        self._time: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time to tell the observer: at the first step, and then twice a second at most."""
        return self._time is None or now - self._time >= REPORT_SECONDS

    def note(self, step: int, bits: float, now: float) -> float | None:
        """Note a report at ``now`` in seconds; return the steps a second since the one before, None at the first."""
        rate = None if self._time is None else (step - self._step) / max(now - self._time, 1e-9)
        if self._time is None:
            self.first_bits = bits
        self.bad_in_a_row = self.bad_in_a_row + 1 if bits > self.first_bits + DIVERGED_BITS else 0
        self._step, self._time = step, now
        return rate


class Trainer:
    """Trains one flow in ``folder``, going on from its checkpoints where there are some, whatever device wrote them.

    Weights, averages, multipliers, optimiser and batches live on ``device``, "cpu" or "cuda"; what :meth:`run` returns
    is on the CPU. Of several ``ranks`` each makes a trainer in the same folder; the first one alone observes,
    validates and writes. ``evaluation_steps``: how many steps take as long as what follows the last one, which is part
    of the time that it reports as left. Raises ``DeviceNotFound``, ``RanksUnfit``.
    """

    def __init__(
        self,
        dataset: Dataset,
        architecture: Architecture,
        config: TrainingConfig,
        folder: Path,
        observe: Observer,
        device: str = "cpu",
        ranks: Ranks | None = None,
        evaluation_steps: float = 0.0,
    ) -> None:
        self.device = find_device(device)
        self.ranks = ranks or Ranks.single()
        self.evaluation_steps = evaluation_steps
        self.dataset = dataset
        self.config = config
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples"
        self.observe: Observer = observe if self.ranks.first else lambda _event: None
        self.validations = config.validation_count
        self.batches = Batches(dataset.train, min(config.batch_size, len(dataset.train)), config.seed)
        if self.batches.batch_size < self.ranks.size:
            raise RanksUnfit(f"{self.ranks.size} processes cannot share batches of {self.batches.batch_size} images")
        self.flow = self._fresh_flow(architecture)
        self.averaged = copy.deepcopy(self.flow).eval()
        compute_coupling_nets_in(self.averaged, None)
        self.objective = SelfNormalizingObjective(self.flow, dataset.image_shape, config).to(self.device)
        self.modules = {"weights": self.flow, "averaged": self.averaged, "objective": self.objective}
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=config.learning_rate, fused=True)
        identity = f"{architecture.model_dump_json()}{config.model_dump_json()}{dataset.digest}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        self.state = TrainingState(0, 0.0, None, None, digest)
        restored = load_checkpoint(self.checkpoints, digest, self.modules, self.optimizer)
        if restored is not None:
            self.state = restored
            self.observe({"event": "log", "message": f"goes on from the checkpoint of step {restored.step}"})
        else:
            self._initialize()
        self.ranks.require_alike(self.state.step, list(self.flow.parameters()))

    def _fresh_flow(self, architecture: Architecture) -> Flow:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            flow = build_flow(architecture)
        if isinstance(flow.pixels, MarginalPixels):
            flow.pixels.fit(self.dataset.train)
        precision = training_precision(self.config, self.device.type)
        compute_coupling_nets_in(flow, torch.bfloat16 if precision == "bfloat16" else None)
        return flow.to(self.device).train()

    def _initialize(self) -> None:
        count = min(INITIALIZATION_IMAGES, len(self.dataset.train))
        batch = Batches(self.dataset.train, count, self.config.seed).batch(0)
        self.flow.initialize(batch.to(self.device))
        self.averaged.load_state_dict(self.flow.state_dict())

    def run(self, should_stop: Callable[[], bool]) -> TrainedFlow:
        """Train to the end of the budget. Raises ``Interrupted`` when asked to stop, ``TrainingDiverged``.

        Raises ``DamagedCheckpoints`` where what it wrote cannot be read.
        """
        self.take_steps(should_stop)
        if self.state.best_step is None or self.state.best_bits_per_dim is None:
            raise TrainingDiverged(f"no validation gave a finite likelihood; {self._advice()}")
        kept_step = load_averaged(self.checkpoints, self.state, self.averaged)
        if kept_step is None:
            raise DamagedCheckpoints(f"no checkpoint in {self.checkpoints.name} can be read")
        return TrainedFlow(
            self.averaged.cpu(),
            self.state.step,
            kept_step,
            self.state.best_bits_per_dim,
            self.state.elapsed_seconds,
        )

    def take_steps(self, should_stop: Callable[[], bool]) -> None:
        """Take all steps of the budget, as :meth:`run` does; all that other ranks than the first have to do."""
        started = time.monotonic() - self.state.elapsed_seconds
        reports = Reports(self.state.step)
        last_checkpoint = time.monotonic()
        progress = self._progress()
        wish = False
        self.observe({"event": "started", "step": self.state.step, "steps": self.config.max_steps})
        while progress < 1:
            loss, elapsed, stop = self._step(self.state.step, progress, started, wish)
            self._advance(self.state.step + 1, elapsed)
            before, progress = progress, self._progress()
            if reports.due(elapsed) or progress >= 1:
                self._report(loss, reports)
            # Asked before anything is written: an attempt that lost its lease ends here.
            wish = should_stop()
            if self.ranks.alone:  # several hear of it in the next step, so that all stop after the same one
                stop = wish
            if int(progress * self.validations) > int(before * self.validations) or progress >= 1:
                self._validate()
                last_checkpoint = time.monotonic()
            elif time.monotonic() - last_checkpoint >= self.config.checkpoint_seconds:
                self._save()
                last_checkpoint = time.monotonic()
            if stop:
                self._save()
                raise Interrupted(f"stopped after step {self.state.step}")

    def _progress(self) -> float:
        share = self.state.step / self.config.max_steps
        if self.config.max_minutes is not None:
            share = max(share, self.state.elapsed_seconds / (60 * self.config.max_minutes))
        return min(1.0, share)

    def _step(self, step: int, progress: float, started: float, wish: bool) -> tuple[Loss, float, bool]:
        """Take a step; return its loss, the time elapsed since ``started``, and whether any rank wishes to stop."""
        images, share = self.ranks.share(self.batches.batch(step))
        y, log_det = self._pixels(images)
        of_batch = gather = None
        if not self.ranks.alone:
            of_batch, gather = partial(self.ranks.mean, share=share), partial(self.ranks.gather, share=share)
        loss = self.objective.loss(self.flow, y, log_det, step, of_batch, gather)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss.value)
        elapsed = time.monotonic() - started
        if not self.ranks.alone:
            loss, elapsed, wish = self._agree(loss, share, elapsed, wish)
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.gradient_clip)
        if not (loss.value.isfinite() and norm.isfinite()):
            y, _ = self._pixels(self.batches.batch(step))  # the cause may be in any rank's slice
            raise TrainingDiverged(f"step {step}: {name_the_cause(self.flow, y)}; {self._advice()}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step, progress)
        self.optimizer.step()
        self.objective.update(loss, step)
        self._average(step)
        return loss, elapsed, wish

    @torch.no_grad()
    def _pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self.flow.pixels(images.to(self.device))
        return y.float(), log_det.float()

    def _agree(self, loss: Loss, share: float, elapsed: float, wish: bool) -> tuple[Loss, float, bool]:
        """Make gradients and loss those of the whole batch; return also the first rank's time, and any rank's wish."""
        gradients = [parameter.grad for parameter in self.flow.parameters() if parameter.grad is not None]
        means = torch.cat([torch.stack([loss.value.detach(), loss.log_likelihood]), loss.reconstruction_errors])
        counts = means.new_tensor([elapsed if self.ranks.first else 0.0, float(wish)])
        means, counts = self.ranks.average(gradients, means, counts, share)
        return Loss(means[0], means[1], means[2:], loss.trimmed), float(counts[0]), bool(counts[1] > 0)

    def learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up, then a cosine from the full step size to its final share over the budget."""
        config = self.config
        warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return config.learning_rate * warmup * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        # The average starts short, so that the first weights, which are noise, are soon forgotten.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.flow.parameters()), 1 - decay)

    def _advance(self, step: int, elapsed: float) -> None:
        state = self.state
        self.state = TrainingState(step, elapsed, state.best_step, state.best_bits_per_dim, state.config_digest)

    def _report(self, loss: Loss, reports: Reports) -> None:
        """Tell the observer of the last step. Raises ``TrainingDiverged`` where bits/dim have risen beyond hope."""
        omitted = omitted_log_det(self.flow, self.dataset.image_shape)
        # Suspects may become as unlikely as they like, that is no divergence.
        learned = loss.log_likelihood if loss.trimmed is None else loss.trimmed.log_likelihood
        bits, learned_bits = (
            bits_per_dim(float(mean) + omitted, math.prod(self.dataset.image_shape))
            for mean in (loss.log_likelihood, learned)
        )
        rate = reports.note(self.state.step, learned_bits, self.state.elapsed_seconds)
        if reports.bad_in_a_row >= DIVERGED_REPORTS:
            raise TrainingDiverged(
                f"step {self.state.step}: bits/dim rose from {reports.first_bits:.2f} to {learned_bits:.2f}; "
                f"{self._advice()}"
            )
        progress, elapsed = self._progress(), self.state.elapsed_seconds
        evaluation_seconds = self.evaluation_steps * elapsed / self.state.step
        self.observe(
            {
                "event": "metrics",
                "step": self.state.step,
                "steps": self.config.max_steps,
                "progress": progress,
                "epoch": self.state.step // self.batches.steps_per_epoch,
                "images_per_second": None if rate is None else rate * self.batches.batch_size,
                "bits_per_dim": bits,
                "reconstruction_error": float(loss.reconstruction_error),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "eta_seconds": elapsed * (1 - progress) / progress + evaluation_seconds if progress > 0 else None,
            }
        )

    def _validate(self) -> None:
        if not self.ranks.first:
            return
        images, share = self.dataset.statistics[: self.config.validation_images], self.config.suspect_share
        bits, kept = trimmed_bits_per_dim(self.averaged, images, share)
        state = self.state
        if math.isfinite(kept) and (state.best_bits_per_dim is None or kept < state.best_bits_per_dim):
            self.state = TrainingState(state.step, state.elapsed_seconds, state.step, kept, state.config_digest)
        found = {"bits_per_dim": bits} | ({"kept_bits_per_dim": kept} if share else {}) | self._inverse_quality()
        self.observe({"event": "validation", "step": state.step, **found})
        self._save()
        self._preview()

    def _inverse_quality(self) -> dict[str, Any]:
        found = inverse_quality(self.averaged, self.dataset.image_shape)
        if not found:
            return {}
        return {
            "inverse_errors": {name: quality.error for name, quality in found.items()},
            "inverse_error_bounds": {name: quality.bound for name, quality in found.items()},
            "multipliers": self.objective.multiplier.values().tolist(),
        }

    def _save(self) -> None:
        if not self.ranks.first:
            return
        save_checkpoint(self.checkpoints, self.state, self.modules, self.optimizer)
        self.observe({"event": "checkpoint", "step": self.state.step})

    def _preview(self) -> None:
        step = self.state.step
        try:
            path = write_preview(self.averaged, self.dataset.image_shape, self.samples, step)
        except Exception as error:
            # Pictures are worth no training run, whatever went wrong. The text of an OSError holds the whole path.
            reason = error.strerror if isinstance(error, OSError) else error
            self.observe({"event": "log", "message": f"no samples of step {step}: {reason}"})
        else:
            self.observe({"event": "samples", "step": step, "file": f"{self.samples.name}/{path.name}"})

    def _advice(self) -> str:
        return f"a smaller learning rate than {self.config.learning_rate:g} or a longer warm-up may help"


def compute_coupling_nets_in(flow: Flow, dtype: torch.dtype | None) -> None:
    """Let the networks of couplings compute in ``dtype`` by autocast while they train, None for that of their input."""
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module.autocast = dtype
