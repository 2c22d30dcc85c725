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
from snf_client.local_files import images_in


def models_of(
    client: Client, folders: list[Path], preset: str, parameters: dict[str, Any], progress: Progress
) -> list[str]:
    """Return the name of a trained model for each folder.

    Raises:
        ClientError: If a call of the service fails.
        RuntimeError: If a training fails, or the model is unfit.
    """
    started = [_start(client, folder, preset, parameters, progress) for folder in folders]
    for folder, (_name, job_id) in zip(folders, started, strict=True):
        if job_id is not None:
            _follow(client, folder.name, job_id, progress)
    return [name for name, _job_id in started]


def _start(
    client: Client, folder: Path, preset: str, parameters: dict[str, Any], progress: Progress
) -> tuple[str, str | None]:
    """Return the name of the folder's model and the id of the job that trains it; None if the model exists."""
    dataset = _name(folder, "")
    name = _name(folder, f"{preset} {sorted(parameters.items())}")
    try:
        client.models.get(name)
        return name, None
    except NotFound:
        pass  # trained below
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


def _follow(client: Client, label: str, job_id: str, progress: Progress) -> None:
    task = progress.add_task(f"train {label}", total=None)
    for event in client.jobs.events(job_id):
        if isinstance(event, MetricsEvent):
            progress.update(task, completed=event.step, total=event.steps)
    job = client.jobs.get(job_id)
    if job.status != "succeeded":
        reason = job.error["detail"] if job.error else f"see its log: {job.links.get('log', job_id)}"
        raise RuntimeError(f"the training of {label} {job.status}: {reason}")
    unfit = (job.result or {}).get("unfit")
    if unfit:
        raise RuntimeError(f"the model of {label} is unfit, {unfit[0]['detail']}; train with more steps")
    progress.update(task, completed=1, total=1)
