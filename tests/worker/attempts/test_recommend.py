"""A comparison of families in real processes: whoever dies, finished models are kept, and there is one result."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

from snf_client.schemas.recommendations import RecommendationRecord
from snf_models.datasets import DatasetStore, Source
from snf_models.registry.registry import Registry
from snf_runtime.images.codec import encode_png
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import zipped
from tests.models.helpers import real_images
from tests.support.fork_server import ForkServer
from tests.worker.support.helpers import new_job, until
from tests.worker.support.scoring import in_background

PARAMETERS = {"image_size": 27, "feature_side": 64, "shapes": ["missing-part"]}
"""A size that no pixel flow takes: a comparison of seconds."""
DIGITS = real_images(300)
MANIFEST = "*/features/artifact/manifest.json"


def test_a_killed_attempt_is_gone_on_with_and_the_record_is_kept(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, backbones: Path, tmp_path: Path
) -> None:
    shutil.copytree(backbones, settings.backbones_dir)
    archive = tmp_path / "digits.zip"
    archive.write_bytes(zipped({f"{number:03d}.png": encode_png(image) for number, image in enumerate(DIGITS)}))
    DatasetStore(settings.datasets_dir).create("digits", [Source(archive, archive.name)])
    job, _ = store.create(new_job(type="recommend", model="", preset="", dataset="digits", parameters=PARAMETERS))
    folder = settings.jobs_dir / job.id
    models = folder / "models"
    thread, outcomes = in_background(real, job)
    until(lambda: list(models.glob(MANIFEST)) or outcomes, 120, every=0.005)
    os.kill(forked.pids[str(folder)], signal.SIGKILL)
    thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    (manifest,) = models.glob(MANIFEST)
    stored = json.loads(manifest.read_text())["training"]

    assert real.run(job.queue) is Outcome.SUCCEEDED
    done = store.get(job.id)
    record = RecommendationRecord.model_validate_json((folder / "recommendation.json").read_bytes())
    assert (record.job, record.dataset, record.proposal) == (job.id, "digits", "features")
    assert record.families[0].fit_seconds == stored["seconds"]  # the fit of the killed attempt
    assert done.result == {
        "proposal": "features",
        "preset": "snf-features",
        "reasons": list(record.reasons),
        "seconds": record.seconds,
    }
    assert (done.progress["fraction"], done.model) == (1, "")
    assert not models.exists()
    assert "digits" not in Registry(settings.registry_dir).names()
