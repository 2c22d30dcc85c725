"""Scoring on a Ray cluster: this process hands out the parts and reports the progress."""

from collections.abc import Callable
from functools import partial

from models.bulk.callbacks import Callbacks
from models.bulk.completion import complete
from models.bulk.engine_choice import choose_engine
from models.bulk.engines import bulk_engine
from models.bulk.output import Output
from models.bulk.part_tables import PartSummary
from models.bulk.plan import BulkPlan
from models.bulk.work import BulkWork
from worker.attempts.attempt import JobSpec
from worker.attempts.progress import ProgressReporter, checking_reporter, write_note
from worker.attempts.score_inputs import score_inputs
from worker.attempts.score_parts import begin_output, plan_at_output
from worker.jobs.event_log import EventLog
from worker.settings import Settings


def score_on_ray(
    spec: JobSpec, settings: Settings, events: EventLog, should_stop: Callable[[], bool]
) -> tuple[BulkPlan, PartSummary]:
    """Score the missing parts of a job with an output on Ray; raise ``Stopped`` once ``should_stop`` is true."""
    engine = bulk_engine("ray", ray_address=settings.ray_address)
    inputs = score_inputs(spec, settings)
    plan, model = choose_engine(inputs.plan, inputs.model, plan_at_output(spec, settings))
    output = begin_output(spec, settings, plan)
    scored = written = plan.count - plan.images_in(output.missing())
    reporter = ProgressReporter(events, plan.count, scored)

    def advance(images: int) -> None:
        nonlocal scored
        scored += images
        reporter.report(scored)

    def part_written(images: int) -> None:
        nonlocal written
        written += images
        reporter.checkpoint(written)

    # An event is written where something moved, and never by the clock: the worker ends a job without events as hung.
    callbacks = Callbacks(should_stop, advance, part_written, notice=partial(write_note, events))

    def score(missing: list[int]) -> None:
        nonlocal scored, written
        scored = written = plan.count - plan.images_in(missing)
        write_note(events, f"scored by the Ray cluster at {settings.ray_address}")
        engine.run(BulkWork(Output(output.location, plan), model, inputs.images), missing, callbacks)

    def finish() -> PartSummary:
        reporter.report(plan.count)
        return output.finish(should_stop, checking_reporter(events))

    return plan, complete(output.missing, score, finish, partial(write_note, events))
