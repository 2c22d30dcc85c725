"""Records of training runs: when they are written, what an interruption leaves, and what is kept of a curve."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from snf_models.disk import remove_folder
from snf_models.errors import Interrupted, TrainingDiverged
from snf_models.registry.registry import Registry
from snf_worker.errors import JobConflict, RunNotFound, StaleAttempt
from snf_worker.jobs.runs import CRASHED, MAX_POINTS, RECORD, RunRecorder, RunStore, record_failure, recorded_run
from snf_worker.settings import Settings
from tests.support.runs import SHIPPED, metrics, recorded, start, validation

ID = "06f8m2q1x3z4c5v6b7n8m9k0j1"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "run-records")


def recorder(store: RunStore, attempt: int | None = None) -> RunRecorder:
    return RunRecorder(store, start(origin="job" if attempt else "command", attempts=attempt or 0), lambda: ID)


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
        (RuntimeError("a fault in /srv/secret"), "failed", "The training crashed; the log of its job, or the output"),
        (RuntimeError("can't allocate memory: 8 bytes"), "failed", "Out of memory: the process got no more"),
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
    assert "secret" not in (run.error or "")
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


def test_a_second_training_in_the_folder_of_a_finished_one_is_another_run(tmp_path: Path) -> None:
    settings, folder = Settings(home=tmp_path / "home"), tmp_path / "run"
    version = Registry(tmp_path / "registry").resolve(SHIPPED)
    for _ in range(2):
        with recorded_run(start(), settings, folder, write=True) as record:
            record(metrics(1, 3.0))
            assert record.published(version, live=True) is None
    runs = RunStore(settings.run_records_dir).list(10)
    assert [(run.state, run.attempts) for run in runs] == [("finished", 1), ("finished", 1)]


def test_an_attempt_of_a_job_leaves_it_to_the_supervisor_whether_the_run_failed(store: RunStore) -> None:
    with pytest.raises(OSError, match="full"):
        end(recorder(store, 1), OSError("the disk is full"), metrics(1, 3.0))
    assert (store.get(ID).state, store.get(ID).error) == ("unfinished", None)
    record_failure(store, ID, {"type": "attempt-crashed", "title": "The attempt crashed", "detail": "OSError: /srv"})
    run = store.get(ID)
    assert (run.state, run.error, run.ended is None) == ("failed", CRASHED, False)
    record_failure(store, ID, {"type": "attempt-crashed", "title": "The attempt crashed", "detail": "OSError: /srv"})
    assert store.get(ID) == run, "it has failed once, however often it is told"
    record_failure(store, "0" * 26, {"type": "", "title": "No such dataset", "detail": "none"})
    assert len(store.list(9)) == 1, "a job that trained nothing has no record"


def test_a_record_that_cannot_be_written_takes_nothing_from_the_published_version(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_run: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with recorder(store, 1) as record:
        record(metrics(1, 3.0))
        monkeypatch.setattr(store, "write", full)
        problem = record.published(Registry(tmp_path / "registry").resolve(SHIPPED), live=True)
    assert problem == "the record of this training could not be written: No space left on device"


def test_a_run_that_is_trained_is_not_removed_and_one_that_was_taken_away_stays_away(
    store: RunStore, tmp_path: Path
) -> None:
    with recorder(store) as record:
        record(metrics(1, 3.0))
        with pytest.raises(JobConflict, match=f"run {ID} is being trained"):
            store.remove(ID)
        shutil.rmtree(store.folder(ID))
        record.published(Registry(tmp_path / "registry").resolve(SHIPPED), live=True)
    assert not store.folder(ID).exists()


def test_the_curve_goes_on_after_the_record_was_damaged(store: RunStore) -> None:
    for attempt in (1, 2):
        with recorder(store) as record:
            record({"event": "started", "step": 10 * (attempt - 1), "steps": 40})
            record(metrics(10 * attempt, 3.0))
    (store.folder(ID) / RECORD).write_text("{")
    with recorder(store) as record:
        record(metrics(30, 2.0))
    assert store.get(ID).attempts == 3
    assert [point["step"] for point in store.curve(ID).points] == [10, 20, 30]


def test_records_are_private_also_within_the_umask_of_the_user(store: RunStore) -> None:
    before = os.umask(0o077)
    try:
        with recorder(store) as record:
            os.umask(0o022)
            record(metrics(1, 3.0))
            assert os.umask(0o022) == 0o022, "what the user asked for keeps the umask of the user"
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (store.folder(ID), *store.folder(ID).iterdir())}
    assert modes == {ID: 0o700, RECORD: 0o600, "events.jsonl": 0o600, ".lock": 0o600}


def test_the_curve_of_a_finished_run_is_thinned_and_its_validations_stay(store: RunStore, tmp_path: Path) -> None:
    with recorder(store) as record:
        for step in range(1, MAX_POINTS + 501):
            record(metrics(step, 3.0))
            if step % 10 == 0:
                record(validation(step, 3.0))
        record.published(Registry(tmp_path / "registry").resolve(SHIPPED), live=True)
    curve = store.curve(ID)
    assert (len(curve.points), len(curve.validations)) == (MAX_POINTS, (MAX_POINTS + 500) // 10)
    assert (curve.points[0]["step"], curve.points[-1]["step"]) == (1, MAX_POINTS + 500)


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
        assert len(store.list(9)) == 2
    assert caplog.text.count("which is damaged") == 1, "once, not at every look at the list"
    (store.folder(ids[1]) / RECORD).unlink()
    (store.folder(ids[1]) / RECORD).mkdir()  # reading it is an OSError
    other = (store.folder(ids[0]) / RECORD).read_text().replace(ids[0], "../../x")
    (store.folder(ids[0]) / RECORD).write_text(other)
    (tmp_path / "run-records" / ("0" * 26)).write_text("no folder")
    assert store.list(9) == []
    for damaged in ids[:3]:
        with pytest.raises(RunNotFound, match=f"the record of run {damaged} is damaged"):
            store.get(damaged)
        store.remove(damaged)
    for unknown in (*ids, ID, "0" * 26):
        for call in (store.get, store.remove):
            with pytest.raises(RunNotFound, match=f"no run has the id {unknown}"):
                call(unknown)
    for hostile in ("..", "../../etc", ID.upper(), f"{ID}/"):
        with pytest.raises(RunNotFound):
            store.remove(hostile)


def test_a_run_that_another_caller_removes_at_the_same_time_is_not_found(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [recorded(tmp_path / "run-records", finished=False) for _ in range(2)]

    def removed_twice(folder: Path) -> None:
        remove_folder(folder)
        remove_folder(folder)

    monkeypatch.setattr("snf_worker.jobs.runs.remove_folder", removed_twice)
    with pytest.raises(RunNotFound):
        store.remove(ids[0])
    with store.in_use(ids[1]), pytest.raises(JobConflict, match="is being trained or deleted"):
        store.remove(ids[1])
