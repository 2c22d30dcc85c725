"""The bookkeeping of parts: what failures count, and what is raised in the end."""

from __future__ import annotations

import pickle
import time

import pytest

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.part_queue import PartQueue, typed
from snf_models.bulk.plan import BulkPlan
from snf_models.errors import (
    AlphaUnattainable,
    DatasetNotFound,
    ImageError,
    LocationUnavailable,
    ModelsError,
    NoLiveVersion,
    PartFailed,
    StorageFull,
)

PLAN = BulkPlan(
    model="m:1", weights_sha256="", dataset="d", source_digest="", alpha=0.01, count=250, images_per_part=100
)
KILLED = PartFailed("killed")


def queue(callbacks: Callbacks | None = None) -> PartQueue:
    return PartQueue(PLAN, [0, 1, 2], 3, callbacks or Callbacks())


def test_processes_that_die_at_random_never_end_a_long_run() -> None:
    parts = queue()
    for _ in range(2):
        for _ in range(2):
            parts.fail(None, time.monotonic(), KILLED)
        parts.loaded()
    part = parts.take()
    assert part == 0
    for _ in range(2):
        parts.fail(None, time.monotonic(), KILLED)
    parts.finish(part)
    for _ in range(2):
        parts.fail(None, time.monotonic(), KILLED)
    with pytest.raises(PartFailed, match=r"^loading the model failed 3 times, the last time with: killed$"):
        parts.fail(None, time.monotonic(), KILLED)


def test_processes_that_are_lost_together_count_once() -> None:
    parts = queue()
    began = time.monotonic()
    for _ in range(100):
        parts.fail(None, began, KILLED)
    parts.fail(None, time.monotonic(), KILLED)
    with pytest.raises(PartFailed, match="failed 3 times"):
        parts.fail(None, time.monotonic(), KILLED)


def test_a_part_is_repeated_where_the_cause_may_pass_and_its_last_error_keeps_its_class() -> None:
    advanced: list[int] = []
    written: list[int] = []
    parts = queue(Callbacks(advance=advanced.append, part_written=written.append))
    for error in (LocationUnavailable("no answer"), KILLED):
        part = parts.take()
        assert part == 0
        parts.advance(part, 64)
        parts.fail(part, 0.0, error)
    assert advanced == [64, -64, 64, -64]
    assert (parts.take(), parts.take(), parts.take(), parts.take()) == (0, 1, 2, None)
    parts.advance(2, 30)
    parts.finish(2)
    assert (parts.left, parts.unfinished) == (0, 2)
    assert (sum(advanced), written) == (50, [50])
    with pytest.raises(LocationUnavailable, match=r"^images 0 to 99 failed 3 times, the last time with: no answer$"):
        parts.fail(0, 0.0, LocationUnavailable("no answer"))
    with pytest.raises(DatasetNotFound, match=r"^images 100 to 199: deleted$") as raised:
        parts.fail(1, 0.0, DatasetNotFound("deleted"))
    assert raised.value.detail == str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ImageError("unreadable-image", "The image is damaged", "no PNG"),
        AlphaUnattainable(0.001, 0.01),
        NoLiveVersion("all are unfit", [("hardly-trained", "too few steps")]),
        LocationUnavailable("no answer"),
    ],
)
def test_errors_are_pickled_with_all_that_they_say(error: ModelsError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert (vars(copied), str(copied), copied.slug, copied.title) == (
        vars(error),
        str(error),
        error.slug,
        error.title,
    )


def test_errors_of_a_process_become_ours() -> None:
    assert isinstance(typed(OSError(28, "No space left on device")), StorageFull)
    unknown = typed(ValueError("a bug"))
    assert type(unknown) is PartFailed
    assert unknown.detail == "ValueError: a bug"
