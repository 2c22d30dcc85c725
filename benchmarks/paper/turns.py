"""The trainings of a group in turns: every row up to the next point of the curves, then all rows on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common import machine
from benchmarks.paper.plan import curve_steps, make_plan
from benchmarks.paper.recipes import Recipe, dataset_of
from benchmarks.paper.rows import Group
from benchmarks.paper.run import Run, Stopped, gap_of
from benchmarks.paper.store import Record, name_of, read, write_run


@dataclass(frozen=True)
class Options:
    """Where and for how long rows are trained: for ``budget`` minutes a row, or for ``steps``; all rows by default."""

    work: Path
    results: Path
    budget: float | None
    steps: int | None
    seeds: tuple[int, ...]
    device: str
    threads: int
    rows: tuple[str, ...] = ()
    test_images: int | None = None


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed or TERM was received in the ``with`` block."""
    stopped: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _: stopped.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_group(group: Group, recipe: Recipe, options: Options) -> None:
    """Train the rows of a group with every seed, and write what was measured after each turn.

    Raises ``Stopped`` at Ctrl-C or TERM: the trainings go on when the command is run again.
    """
    work = options.work / group.name / recipe
    plan = make_plan(group, recipe, options.budget, options.steps, work, options.device)
    now: Record = {"machine": machine(options.threads), "budget": plan.budget}
    console = Console()
    with stop_signals() as should_stop:
        for seed in options.seeds:
            runs = [
                Run(group, row, recipe, seed, plan.steps, work, options.device, options.test_images)
                for row in group.rows
            ]
            chosen = [run for run in runs if not options.rows or run.row.name in options.rows]

            def store(run: Run) -> None:
                write_run(options.results, run.record() | now)

            points = curve_steps(plan.steps, runs[0].steps_per_epoch, group)
            title = f"{group.name}, {recipe}, seed {seed}"
            console.print(f"{title}: {len(chosen)} rows of {plan.steps} steps on {dataset_of(group.dataset).name}")
            take_turns(chosen, points, should_stop, store, console)
            finish(runs, options.results, should_stop, now)


def take_turns(
    runs: list[Run], points: list[int], should_stop: Callable[[], bool], store: Callable[[Run], None], console: Console
) -> None:
    """Train every run up to each of some steps, one run after the other."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {run.row.name: bars.add_task(run.row.name, total=points[-1], completed=run.step) for run in runs}

        def follow(row: str) -> Callable[[int], None]:
            return lambda step: bars.update(tasks[row], completed=step)

        for target in points:
            for run in runs:
                before = run.step
                run.advance(target, follow(run.row.name), should_stop)
                if run.step > before:
                    point = run.curve[-1]
                    reached = f"{point.nats:.2f} nats, {point.seconds:.0f} s"
                    bars.console.print(f"{run.row.name} seed {run.seed} step {point.step}: {reached}")
                if run.step > before or run.diverged is not None:
                    store(run)


def finish(runs: list[Run], results: Path, should_stop: Callable[[], bool], now: Record) -> None:
    """Test every run of a seed that is at its last step, and compare it with the reference row of its group.

    ``now`` are machine and budget of this process, for runs without stored results.
    """
    runs = [run for run in runs if run.step >= run.steps]
    for run in runs:
        if should_stop():
            raise Stopped("stopped before all rows were tested")
        run.test()
    reference = next((run for run in runs if run.row.name == run.group.reference), None)
    for run in runs:
        record = run.record(None if reference is None else gap_of(run, reference))
        # Where it was trained, which need not be this machine.
        known = read(results, name_of(record)) or now
        write_run(results, record | {name: known[name] for name in now})
