"""Records of training runs: when they are written, what an interruption leaves, and what is kept of a curve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from models.errors import TrainingDiverged
from models.registry.registry import Registry
from models.training.loop import Interrupted
from tests.support.runs import SHIPPED, metrics, recorded, start, validation
from worker.errors import RunNotFound, StaleAttempt
from worker.runs.recorder import RunRecorder, recorded_run
from worker.runs.store import MOST_POINTS, RECORD, RunStore
from worker.settings import Settings

ID = "06f8m2q1x3z4c5v6b7n8m9k0j1"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "run-records")


def recorder(store: RunStore, attempt: int | None = None) -> RunRecorder:
    return RunRecorder(store, start(origin="job"), lambda: ID, attempt)


def end(recorder: RunRecorder, error: BaseException, *events: dict[str, Any]) -> None:
    """Record events, then raise an error as a training would."""
    with recorder as record:
        for event in events:
            record(event)
        raise error


def test_a_training_that_is_refused_leaves_no_record(store: RunStore) -> None:
    with pytest.raises(TrainingDiverged):
        end(recorder(store), TrainingDiverged("before its first event"))
    assert store.list(10) == []


def test_a_run_that_goes_on_keeps_its_record_and_drops_what_it_repeats(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        end(recorder(store, 1), Interrupted("asked to stop"), metrics(10, 3.0), metrics(20, 2.5), validation(20, 2.6))
    first = store.get(ID)
    assert (first.state, first.error, first.ended, first.attempts) == ("unfinished", None, None, 1)
    with recorder(store, 2) as record:
        record({"event": "started", "step": 10, "steps": 40})
        record(metrics(20, 2.4))
        record.published(Registry(tmp_path / "registry").resolve(SHIPPED), live=False)
    run = store.get(ID)
    assert (run.state, run.attempts, run.started, run.origin) == ("finished", 2, first.started, "job")
    assert run.result is not None
    assert (run.result.ref, run.result.live, run.result.unfit) == (SHIPPED, False, {})
    assert run.result.test_bits_per_dim == pytest.approx(1.1, abs=0.1)
    assert run.steps is not None
    assert run.steps > 1000
    curve = store.curve(ID)
    assert [(point["step"], point["bits_per_dim"]) for point in curve.points] == [(10, 3.0), (20, 2.4)]
    assert curve.validations == []


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (TrainingDiverged("step 3: a loss that is not finite"), "failed", "Training diverged: step 3: a loss that is"),
        (RuntimeError("a fault"), "failed", "RuntimeError: a fault"),
        (Interrupted("asked to stop"), "unfinished", None),
        (StaleAttempt("another attempt has the job"), "unfinished", None),
        (KeyboardInterrupt(), "unfinished", None),
    ],
)
def test_how_a_run_ends(store: RunStore, error: BaseException, state: str, text: str | None) -> None:
    with pytest.raises(type(error)):
        end(recorder(store), error, metrics(1, 3.0))
    run = store.get(ID)
    assert run.state == state
    assert (run.error or "").startswith(text or "")
    assert (run.ended is None) == (state == "unfinished")


def test_the_checkpoints_of_a_command_keep_the_id_of_its_run(tmp_path: Path) -> None:
    settings, folder = Settings(home=tmp_path / "home"), tmp_path / "run"
    for _ in range(2):
        with recorded_run(start(), settings, folder, write=True) as record:
            record(metrics(1, 3.0))
    with recorded_run(start(), settings, folder, write=False) as record:
        record(metrics(2, 3.0))
    runs = RunStore(settings.run_records_dir).list(10)
    assert [run.attempts for run in runs] == [2]
    (folder / "run-id").write_text("../../elsewhere")
    with recorded_run(start(), settings, folder, write=True) as record:
        record(metrics(1, 3.0))
    assert len(RunStore(settings.run_records_dir).list(10)) == 2


def test_the_curve_of_a_finished_run_is_thinned_and_its_validations_stay(store: RunStore, tmp_path: Path) -> None:
    with recorder(store) as record:
        for step in range(1, MOST_POINTS + 501):
            record(metrics(step, 3.0))
            if step % 10 == 0:
                record(validation(step, 3.0))
        record.published(Registry(tmp_path / "registry").resolve(SHIPPED), live=True)
    curve = store.curve(ID)
    assert (len(curve.points), len(curve.validations)) == (MOST_POINTS, (MOST_POINTS + 500) // 10)
    assert (curve.points[0]["step"], curve.points[-1]["step"]) == (1, MOST_POINTS + 500)


def test_runs_are_listed_in_pages_and_removed(
    store: RunStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [recorded(tmp_path / "run-records", finished=False) for _ in range(4)]
    assert [run.id for run in store.list(2)] == [ids[3], ids[2]]
    assert [run.id for run in store.list(9, after=ids[2])] == [ids[1], ids[0]]
    store.remove(ids[3])
    (store.folder(ids[2]) / RECORD).write_text("{")
    with caplog.at_level(logging.WARNING):
        assert [run.id for run in store.list(9)] == [ids[1], ids[0]]
    assert "which is damaged" in caplog.text
    for unknown in (ids[3], ids[2], ID):
        with pytest.raises(RunNotFound, match=unknown):
            store.get(unknown)
    for hostile in ("..", "../../etc", ID.upper(), f"{ID}/"):
        with pytest.raises(RunNotFound):
            store.remove(hostile)
