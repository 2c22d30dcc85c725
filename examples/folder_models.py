"""Train a model on a folder of images, unless the service has one already.

The name of a model contains a digest of its images and settings. So an unchanged folder is not trained again, and a
changed one is. ``odd_images.py`` uses this module.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from rich.progress import Progress

from snf_client import Client, MetricsEvent, NotFound
from snf_client.images import images_in


def models_of(
    client: Client, folders: list[Path], preset: str, parameters: dict[str, Any], progress: Progress
) -> list[str]:
    """Return a trained model for each folder, as ``name:version``, and print a warning if it is unfit.

    Raises:
        ClientError: If a call of the service fails.
        RuntimeError: If a training fails.
    """
    started = [_start(client, folder, preset, parameters, progress) for folder in folders]
    return [
        ref if job_id is None else _follow(client, folder.name, job_id, progress)
        for folder, (ref, job_id) in zip(folders, started, strict=True)
    ]


def _start(
    client: Client, folder: Path, preset: str, parameters: dict[str, Any], progress: Progress
) -> tuple[str, str | None]:
    """Return the folder's model, and the id of the job that trains it; None if the model exists."""
    dataset = _name(folder, "")
    name = _name(folder, f"{preset} {sorted(parameters.items())}")
    for model in client.models.list().models:
        if model.name == name:
            return f"{name}:{model.versions[-1]}", None
    for job in client.jobs.list(type="train").jobs:
        if job.model == name and job.status in {"queued", "starting", "running"}:
            return name, job.id  # submitted by a program that was stopped
    try:
        client.datasets.get(dataset)
    except NotFound:
        task = progress.add_task(f"upload {folder.name}")
        client.datasets.upload(
            dataset, folder, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    return name, client.jobs.train(dataset, name, preset=preset, parameters=parameters).id


def _name(folder: Path, settings: str) -> str:
    """Return a valid name with a digest of the folder's images and of the settings."""
    digest = hashlib.sha256(settings.encode())
    for path in images_in(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    slug = re.sub(r"[^a-z0-9]+", "-", folder.name.lower())[:40].strip("-")
    return f"{slug or 'images'}-{digest.hexdigest()[:10]}"


def _follow(client: Client, label: str, job_id: str, progress: Progress) -> str:
    """Return the model that a job trains as ``name:version``, once it is trained."""
    task = progress.add_task(f"train {label}", total=None)
    for event in client.jobs.events(job_id):
        if isinstance(event, MetricsEvent):
            progress.update(task, completed=event.step, total=event.steps)
    job = client.jobs.get(job_id)
    if job.status != "succeeded" or job.result is None:
        reason = job.error["detail"] if job.error else f"see its log: {job.links.get('log', job_id)}"
        raise RuntimeError(f"the training of {label} {job.status}: {reason}")
    progress.update(task, completed=1, total=1)
    for reason in job.result["unfit"]:
        # Its plain name would be refused; its scores are those of a poor model.
        progress.console.print(f"the model of {label} is unfit: {reason['detail']}", style="red", markup=False)
    return str(job.result["ref"])
