"""Records of training runs, as a training writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snf_models.registry.registry import Registry
from snf_worker.jobs.record import Job, new_job, new_job_id
from snf_worker.jobs.runs import RunRecorder, RunStore

SHIPPED = "mnist-snf-glow:1"


def start(**changes: Any) -> Job:
    known = {"origin": "command", "model": "digits", "dataset": "mnist-mini", "preset": "snf-glow-tiny"}
    parameters = {"max_steps": 40, "batch_size": 64, "learning_rate": 0.002, "image_size": None}
    return new_job(**{**known, "parameters": parameters, "device": "cpu", **changes})


def metrics(step: int, bits: float) -> dict[str, Any]:
    figures = {"bits_per_dim": bits, "reconstruction_error": 1e-3, "learning_rate": 1e-3, "images_per_second": 100.0}
    return {"event": "metrics", "step": step, "steps": 40, "epoch": 0, **figures}


def validation(step: int, bits: float) -> dict[str, Any]:
    return {"event": "validation", "step": step, "images": 20, "bits_per_dim": bits}


def recorded(folder: Path, *, bits: float = 3.0, finished: bool = True, **changes: Any) -> str:
    """Record a run of 40 steps whose bits/dim fall by one; return its id."""
    run_id = new_job_id()
    with RunRecorder(RunStore(folder), start(**changes), lambda: run_id) as record:
        record({"event": "started", "step": 0, "steps": 40})
        for step in range(1, 41):
            record(metrics(step, bits - step / 40))
            if step % 20 == 0:
                record(validation(step, bits - step / 40 + 0.01))
        if finished:
            record.published(Registry(folder.parent / "registry").resolve(SHIPPED), live=True)
    return run_id
