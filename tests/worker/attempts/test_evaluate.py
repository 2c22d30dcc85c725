"""Evaluations, limits and recommendations in real processes: what a dead or cancelled attempt did is not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from snf_client.schemas.evaluations import EvaluationReport
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendationRecord
from snf_models.datasets import DatasetStore, Source
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_runtime.images.codec import encode_png
from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.end_to_end.support.processes import halted, told_to_stop
from tests.models.datasets.upload_files import pngs, zipped
from tests.models.helpers import real_images
from tests.support.fork_server import ForkServer
from tests.worker.support.helpers import new_job, until
from tests.worker.support.scoring import MODEL, in_background

AGAINST = [f"lot-{number}" for number in range(6)]
"""So many sets that there are some left when the attempt has been stopped after the first one."""


def evaluating(retry_of: str | None = None) -> Job:
    # As earlier versions had it.
    parameters = {"against": AGAINST, "images": 40, "thorough": True}
    return new_job(type="evaluate", queue=Queue.SCORE, model=MODEL, parameters=parameters, retry_of=retry_of)


@pytest.mark.usefixtures("digits")
def test_a_cancelled_one_is_gone_on_with_by_its_retry(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, tmp_path: Path
) -> None:
    archive = tmp_path / "lot.zip"
    archive.write_bytes(zipped(pngs(20)))
    for name in AGAINST:
        DatasetStore(settings.datasets_dir).create(name, [Source(archive, archive.name)])
    job, _ = store.create(evaluating())
    thread, outcomes = in_background(real, job)
    journal = settings.jobs_dir / job.id / "events.jsonl"
    until(lambda: outcomes or (journal.exists() and '"checkpoint"' in journal.read_text()), 120, every=0.005)
    # It scores nothing until it is asked to end, so that there are sets left for its retry.
    with halted(forked.pids[str(settings.jobs_dir / job.id)]) as attempt:
        store.request_cancel(job.id)
        until(lambda: told_to_stop(attempt), 60)
    thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    assert store.get(job.id).checkpoint_step
    again, _ = store.create(evaluating(retry_of=job.id))
    assert real.run(again.queue) is Outcome.SUCCEEDED
    folder = settings.jobs_dir / again.id
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    messages = [event.get("message") for event in events]
    assert f"goes on from the scores of job {job.id}" in messages
    assert "verdicts with gradients have been removed: the model is evaluated without them" in messages
    result = store.get(again.id).result or {}
    assert list(result["auroc"]) == AGAINST
    report = EvaluationReport.model_validate_json((folder / "report.json").read_bytes())
    assert {images.name: images.results[0].auroc for images in report.sets} == result["auroc"]
    assert not (folder / "sets").exists()


LIMITED = "mnist-snf-glow"
LIMIT = {"images": 40, "shapes": ["missing-part"], "contrasts": [64]}


def test_a_killed_attempt_is_gone_on_with_and_published_once(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer
) -> None:
    job, _ = store.create(new_job(type="limit", queue=Queue.SCORE, model=f"{LIMITED}:1", parameters=LIMIT))
    folder = settings.jobs_dir / job.id
    thread, outcomes = in_background(real, job)
    until(lambda: (folder / "cells" / "cells.json").exists() or outcomes, 120, every=0.005)
    os.kill(forked.pids[str(folder)], signal.SIGKILL)
    thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    kept = set(json.loads((folder / "cells" / "cells.json").read_text())["found"])
    assert "without defects" in kept

    assert real.run(job.queue) is Outcome.SUCCEEDED
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    again = {event["message"] for event in events if event["event"] == "log" and event["attempt"] == 2}
    assert again
    assert not again & kept
    assert not (folder / "cells").exists()
    started = [event["step"] for event in events if event["event"] == "started"]
    assert started == [0, 40 * len(kept)], "only images of finished sizes count as a checkpoint"

    version = Registry(settings.registry_dir).resolve(LIMITED)
    limits = Registry(settings.registry_dir).limits(LIMITED, 1)
    record = limits.record(1)
    assert (limits.numbers(), record.job, record.calibration) == ([1], job.id, 0)
    scorer = load_model(version.path, options=EngineOptions("torch"))
    parameters = LimitParameters.model_validate(LIMIT)
    good = good_images("mnist-mini", scorer.manifest, scorer.calibration_summary, 40)
    direct = measure_limits(scorer, good, parameters)
    assert (direct.curves, direct.undamaged) == (record.curves, record.undamaged)
    assert direct.curves[0].limit is not None  # a flat square of 12 pixels on a digit is found
    done = store.get(job.id)
    assert done.progress["fraction"] == 1
    assert done.result == {
        "model": LIMITED,
        "version": 1,
        "ref": f"{LIMITED}:1",
        "limit": 1,
        "calibration": 0,
        "alpha": 0.01,
        "sizes": {curve.label: curve.limit for curve in direct.curves},
        "not_determinable": None,
    }

    # The worker died when all that was missing was the record of the success.
    assert limits.publish(record) == 1


COMPARISON = {"image_size": 27, "feature_side": 64, "shapes": ["missing-part"]}
"""A size that no pixel flow takes: a comparison of seconds."""
MANY_DIGITS = real_images(300)
MANIFEST = "*/features/artifact/manifest.json"


def test_a_killed_attempt_is_gone_on_with_and_the_record_is_kept(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, backbones: Path, tmp_path: Path
) -> None:
    shutil.copytree(backbones, settings.backbones_dir)
    archive = tmp_path / "digits.zip"
    archive.write_bytes(zipped({f"{number:03d}.png": encode_png(image) for number, image in enumerate(MANY_DIGITS)}))
    DatasetStore(settings.datasets_dir).create("digits", [Source(archive, archive.name)])
    job, _ = store.create(new_job(type="recommend", model="", preset="", dataset="digits", parameters=COMPARISON))
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
