"""A detection limit in real processes: measured once whoever dies, and finished defects are not measured again."""

import json
import os
import signal

from snf_client.schemas.limits import LimitParameters
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_worker.jobs.record import Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.worker.support.helpers import new_job, until
from tests.worker.support.scoring import in_background

MODEL = "mnist-snf-glow"
PARAMETERS = {"images": 40, "shapes": ["missing-part"], "contrasts": [64]}


def test_a_killed_attempt_is_gone_on_with_and_published_once(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer
) -> None:
    job, _ = store.create(new_job(type="limit", queue=Queue.SCORE, model=f"{MODEL}:1", parameters=PARAMETERS))
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

    version = Registry(settings.registry_dir).resolve(MODEL)
    limits = Registry(settings.registry_dir).limits(MODEL, 1)
    record = limits.record(1)
    assert (limits.numbers(), record.job, record.calibration) == ([1], job.id, 0)
    scorer = load_model(version.path, options=EngineOptions("torch"))
    parameters = LimitParameters.model_validate(PARAMETERS)
    good = good_images("mnist-mini", scorer.manifest, scorer.calibration_summary, 40)
    direct = measure_limits(scorer, good, parameters)
    assert (direct.curves, direct.undamaged) == (record.curves, record.undamaged)
    assert direct.curves[0].limit is not None  # a flat square of 12 pixels on a digit is found
    done = store.get(job.id)
    assert done.progress["fraction"] == 1
    assert done.result == {
        "model": MODEL,
        "version": 1,
        "ref": f"{MODEL}:1",
        "limit": 1,
        "calibration": 0,
        "alpha": 0.01,
        "sizes": {curve.label: curve.limit for curve in direct.curves},
        "not_determinable": None,
    }

    # The worker died when all that was missing was the record of the success.
    assert limits.publish(record) == 1
