"""A model for a folder of images: uploaded and trained where it is not there yet, followed with progress.

Models are named by what images and settings are: asking again is quick, and a folder that changed is trained anew.
`odd_images.py` uses it; so may a program of your own.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from rich.progress import Progress

from snf_client import Client, NotFound
from snf_client.image_files import images_in
from snf_client.job_events import Metrics


def models_of(
    client: Client, folders: list[Path], preset: str, parameters: dict[str, Any], progress: Progress
) -> list[str]:
    """The name of a trained model for each folder; raises `ClientError`, and `RuntimeError` where a training fails."""
    begun = [_begin(client, folder, preset, parameters, progress) for folder in folders]
    for folder, (_name, job_id) in zip(folders, begun, strict=True):
        if job_id is not None:
            _follow(client, folder.name, job_id, progress)
    return [name for name, _job_id in begun]


def _begin(
    client: Client, folder: Path, preset: str, parameters: dict[str, Any], progress: Progress
) -> tuple[str, str | None]:
    """The name of the folder's model, and the job that trains it; no job where the model is there already."""
    dataset = _named(folder, "")
    name = _named(folder, f"{preset} {sorted(parameters.items())}")
    try:
        client.models.get(name)
        return name, None
    except NotFound:
        pass  # trained below
    for job in client.jobs.list(type="train").jobs:
        if job.model == name and job.status in {"queued", "starting", "running"}:
            return name, job.id  # a program that was stopped asked for it
    try:
        client.datasets.get(dataset)
    except NotFound:
        task = progress.add_task(f"upload {folder.name}")
        client.datasets.upload(
            dataset, folder, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    return name, client.jobs.train(dataset, name, preset=preset, parameters=parameters).id


def _named(folder: Path, settings: str) -> str:
    """A name of the service for the folder's images and settings."""
    digest = hashlib.sha256(settings.encode())
    for path in images_in(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    slug = re.sub(r"[^a-z0-9]+", "-", folder.name.lower())[:40].strip("-")
    return f"{slug or 'images'}-{digest.hexdigest()[:10]}"


def _follow(client: Client, label: str, job_id: str, progress: Progress) -> None:
    task = progress.add_task(f"train {label}", total=None)
    for event in client.jobs.events(job_id):
        if isinstance(event, Metrics):
            progress.update(task, completed=event.step, total=event.steps)
    job = client.jobs.get(job_id)
    if job.status != "succeeded":
        reason = job.error["detail"] if job.error else f"look at its log: {job.links.get('log', job_id)}"
        raise RuntimeError(f"the training of {label} {job.status}: {reason}")
    progress.update(task, completed=1, total=1)
