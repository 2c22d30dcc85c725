# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Checks of an existing or unfinished table of scores before ``snf score`` replaces it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from snf_app.cli.common import fail
from snf_app.cli.judging_model import JudgingModel
from snf_app.cli.out_file import ADVICE
from snf_runtime.judged_counts import USAGE

if TYPE_CHECKING:
    from snf_models.bulk.plan import BulkPlan

ENDINGS = (".parquet", ".csv", ".jsonl")


def check_held(
    out: Path, model: JudgingModel, images: Sequence[str] | None, *, dataset: str | None = None, force: bool
) -> None:
    """Exit with code 2 if a file holds scores of other images or another calibration, unless ``force`` is set."""
    from snf_models.bulk.merge_parts import read_content

    if force or not out.exists():
        return
    held = read_content(out)
    if held is None:
        raise fail(f"--out: {out} exists and is no table of scores; {ADVICE}", USAGE)
    held_model = JudgingModel(held.model, held.calibration)
    if (held_model.ref, held_model.calibration) != (model.ref, model.calibration):
        raise fail(f"--out: {out} holds scores of {held_model.label}, not of {model.label}; {ADVICE}", USAGE)
    if held.dataset != dataset:
        of = f"the dataset {held.dataset}" if held.dataset else "image files"
        wanted = f"the dataset {dataset}" if dataset else "image files"
        raise fail(f"--out: {out} holds scores of {of}, not of {wanted}; {ADVICE}", USAGE)
    if images is not None and held.paths != tuple(images):
        raise fail(
            f"--out: {out} holds scores of {_files(held.paths)}, not of {_files(images)}; {ADVICE}",
            USAGE,
        )


def check_unfinished(out: Path, folder: Path, plan: BulkPlan, *, force: bool) -> None:
    """Exit with code 2 if a run with another plan left partial results, unless ``force`` is set."""
    from snf_models.bulk.plan import stored_plan

    stored = stored_plan(folder)
    if force or stored is None or plan.continues(stored) or not any(folder.glob("part-*.parquet")):
        return
    label = JudgingModel(stored.model, stored.calibration).label
    raise fail(
        f"--out: an interrupted command has scored a part of {stored.count} images by {label}, alpha {stored.alpha:g}, "
        f"for {out}, and this is another command, or a file has changed; repeat the former one, {ADVICE}",
        USAGE,
    )


def _files(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    return f"{len(paths)} files from {paths[0]} to {paths[-1]}" if paths else "no files"
