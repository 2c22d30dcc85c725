"""Tables of models, calibrations, audits and drift."""

from __future__ import annotations

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from snf_app.cli.common import fail
from snf_app.cli.live import measured
from snf_app.cli.output import TableColumn, duration, print_facts, print_table
from snf_client.schemas.calibrations import CalibrationComparison, CalibrationList, CalibrationView, Threshold
from snf_client.schemas.models import Audit, Drift, DriftReport, ModelDetail, ModelPage, ModelSummary
from snf_models.artifacts.manifest import FitnessRecord, Manifest, TrainingRecord
from snf_models.flows.architecture import Architecture, features_of
from snf_runtime.errors import FAILED

SHOWN_ALPHA = 0.01
"""False-alarm rate of the shown thresholds; JSON has several."""
STYLES = {"ready": "green", "yes": "green", "loading": "cyan", "failed": "bold red"}


def print_models(page: ModelPage) -> None:
    columns = (
        TableColumn("name", fold=20),
        TableColumn("versions", fold=8, drop=3),
        TableColumn("live"),
        TableColumn("architecture", fold=12, drop=1),
        TableColumn("image", fold=8),
        TableColumn("test bits/dim", right=True, drop=2),
        TableColumn("state", fold=12),
    )
    rows = [
        (
            model.name,
            " ".join(map(str, model.versions)),
            "none" if model.state == "unfit" else str(model.aliases.get("live", "")),
            model.architecture or "",
            _images(model),
            "" if model.test_bits_per_dim is None else f"{model.test_bits_per_dim:.4f}",
            _styled(_state(model), "bold red" if model.unfit or model.drift_alarms else None),
        )
        for model in page.models
    ]
    print_table(columns, rows)


def _images(model: ModelSummary) -> str:
    if model.fit == "tiles" and model.image_shape:
        return f"{model.image_shape[0]}, any size"
    return "x".join(map(str, model.image_shape or []))


def print_model(model: ModelDetail) -> None:
    """Print the details of a version; exit with code 3 if its manifest is of another version of this program."""
    try:
        manifest = Manifest.model_validate(model.manifest)
    except ValidationError as error:
        reason = f"the manifest of {model.name}:{model.version} is of another version of this program"
        raise fail(f"{reason}; --json prints it as it is", FAILED) from error
    architecture, training, evaluation = manifest.architecture, manifest.training, manifest.evaluation
    calibration, serving = model.calibration, model.serving
    facts: dict[str, str | Text] = {
        "unfit": Text("\n".join(reason.detail for reason in model.unfit), "bold red"),
        "architecture": f"{architecture.summary()} ({training.preset})",
        "images": ("any size, in tiles of " if manifest.preprocessing.tiled else "")
        + "x".join(map(str, architecture.image_shape)),
        "trained on": f"{training.dataset}, {training.train_images:,} images"
        if training.imported is None
        else f"not recorded; calibrated and tested on {training.dataset}",
        "backbone": _backbone(architecture),
        "training": _training(training),
        "created": f"{manifest.created:%Y-%m-%d %H:%M} UTC",
        "test": measured(evaluation.test_bits_per_dim, evaluation.test_nats, evaluation.test_images),
        "validation": measured(evaluation.validation_bits_per_dim, evaluation.validation_nats, None),
        "fit to serve": _fitness(manifest.fitness),
        "error of learned inverses": _number(evaluation.reconstruction_error, ".2e"),
        "log-determinants": f"{manifest.log_dets.total:.6f} nats, of weights {manifest.log_dets.weights_sha256[:12]}",
        "active calibration": f"{calibration.number}: {calibration.problem or calibration.dataset}",
        "warning": calibration.warning or "",
        "smallest alpha": _number(calibration.smallest_p, ".4g"),
        "served by": "" if serving is None else f"{serving.engine} in {serving.precision}, tiles of {serving.tile}",
        "drift": ", ".join(window.source or "all sources" for window in model.drift if window.alarm),
    }
    print_facts(facts, f"{model.name}:{model.version}")


def print_calibrations(calibrations: CalibrationList) -> None:
    """Print calibrations with the threshold for 1 % false alarms, warnings, and why some did not become active."""
    columns = (
        TableColumn("number", right=True),
        TableColumn("dataset", fold=20),
        TableColumn("images", drop=2),
        TableColumn("precision", fold=10, drop=1),
        TableColumn("smallest alpha", right=True),
        TableColumn("p that keeps 1 % (95 % sure)", fold=10),
        TableColumn("active"),
    )
    rows = [
        (
            str(calibration.number),
            calibration.problem or calibration.dataset or "",
            "" if calibration.problem else _ranked_images(calibration),
            "" if calibration.problem else _precision(calibration),
            _number(calibration.smallest_p, ".4g"),
            _threshold(calibration.thresholds),
            _styled("yes" if calibration.active else ""),
        )
        for calibration in calibrations.calibrations
    ]
    print_table(columns, rows)
    for calibration in calibrations.calibrations:
        remarks = [calibration.reason and f"when it was made: {calibration.reason}", calibration.warning]
        for remark in filter(None, remarks):
            Console(soft_wrap=True).print(f"{calibration.number}, {remark}", markup=False, highlight=False)


def _ranked_images(calibration: CalibrationView) -> str:
    copies = f" ({calibration.copies} more are copies)" if calibration.copies else ""
    return f"{calibration.statistics_images} + {calibration.calibration_images}{copies}"


def print_comparison(comparison: CalibrationComparison) -> None:
    """Print two calibrations side by side, and how many verdicts on the newest images change."""
    before, after, verdicts = comparison.before, comparison.after, comparison.verdicts
    rows: list[tuple[str, str, str]] = [
        (label, show(before), show(after))
        for label, show in (
            ("dataset", lambda one: one.dataset),
            ("calibration images", lambda one: str(one.calibration_images)),
            ("precision", lambda one: one.precision),
            ("smallest alpha", lambda one: f"{one.smallest_p:.4g}"),
            ("flags at", lambda one: ", ".join(f"{alpha:g}" for alpha in one.attainable_alphas) or "none of the usual"),
            ("default alpha", lambda one: f"{one.default_alpha:.4g}"),
            ("flagged from T, nats", lambda one: f"{one.threshold:.4f}"),
        )
    ]
    if verdicts.images:
        of = f" of {verdicts.images}"
        rows.append(("anomalies", f"{verdicts.anomalies_before}{of}", f"{verdicts.anomalies_after}{of}"))
    headings = ("", f"before: calibration {before.number}", f"after: calibration {after.number}")
    print_table([TableColumn(heading, fold=20) for heading in headings], rows)
    console = Console(soft_wrap=True, highlight=False)
    if verdicts.images:
        console.print(f"{verdicts.to_anomaly} become anomalous, {verdicts.to_normal} become normal")
    if verdicts.refused_after:
        console.print(f"{verdicts.refused_after} were asked for at an alpha that would be refused")
    console.print(f"verdicts: {verdicts.note}")


def print_audit(audit: Audit) -> None:
    """Print each image's log-likelihood in nats, served and recomputed, and whether all agree."""
    rows = [
        (
            f"{image.source} {image.index}",
            f"{image.log_likelihood:.6f}",
            f"{image.recomputed:.6f}",
            f"{image.difference:+.1e}",
        )
        for image in audit.images
    ]
    total = audit.total
    rows.append(("log-determinants", f"{total.cached:.6f}", f"{total.recomputed:.6f}", f"{total.difference:+.1e}"))
    headings = ("with cached values", "recomputed", "difference")
    print_table([TableColumn("nats", fold=16), *(TableColumn(name, right=True) for name in headings)], rows)
    verdict = "agree" if audit.agrees else "do NOT agree"
    print(
        f"{audit.model}:{audit.version} on {audit.engine} in {audit.precision}: the numbers {verdict}; "
        f"{audit.tolerance:.1e} nats are allowed"
    )


DRIFT_COLUMNS = (
    TableColumn("images of", fold=16),
    TableColumn("verdict", fold=16),
    TableColumn("images", right=True, drop=3),
    TableColumn("capital", right=True, drop=2),
    TableColumn("highest", right=True),
    TableColumn("alarm from", right=True, drop=1),
    TableColumn("bet on", fold=11),
)


def print_drift(report: DriftReport) -> None:
    if report.drift:
        print_table(DRIFT_COLUMNS, [_drift_row(drift) for drift in report.drift])
    else:
        typer.echo(f"no image was scored by {report.model}:{report.version} with calibration {report.calibration} yet")


def _drift_row(drift: Drift) -> tuple[str, ...]:
    return (
        drift.source or "all sources",
        "no drift" if drift.alarm_since is None else f"drift since {drift.alarm_since:%Y-%m-%d %H:%M}",
        str(drift.images),
        *(f"10^{log10:.1f}" for log10 in (drift.log10_capital, drift.log10_highest, drift.log10_threshold)),
        drift.quantity,
    )


def _fitness(record: FitnessRecord | None) -> str:
    """Return the figures of the checks that a model passed; those that failed stand above."""
    return "" if record is None else "; ".join(check.sentence for check in record.checks if check.passed)


def _training(record: TrainingRecord) -> str:
    if record.imported is not None:
        return f"imported from {record.imported}"
    if not record.steps:
        return f"fitted in closed form in {duration(record.seconds)}"
    return f"{record.steps:,} steps in {duration(record.seconds)}, best at {record.best_step:,}"


def _backbone(architecture: Architecture) -> str:
    features = features_of(architecture)
    if features is None:
        return ""
    height, width = features.input_size
    return f"{features.backbone}, digest {features.backbone_sha256[:12]}, images enlarged to {height}x{width}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _precision(calibration: CalibrationView) -> str:
    if calibration.deviation is None:
        return str(calibration.precision)
    return f"{calibration.precision} ± {calibration.deviation.median:.2g} nats"


def _threshold(thresholds: list[Threshold]) -> str:
    """Return the threshold that keeps the false-alarm rate, or the number of images that it needs."""
    shown = next((threshold for threshold in thresholds if threshold.alpha == SHOWN_ALPHA), None)
    if shown is None:
        return ""
    return f"needs {shown.images_needed} images" if shown.threshold is None else f"{shown.threshold:.4g}"


def _state(model: ModelSummary) -> str:
    """Return the loading state of a model and its problems, without the figures of an unfit version."""
    unfit = ", ".join(reason.code.replace("-", " ") for reason in model.unfit)
    if model.state == "unfit":
        return f"no live version: {unfit}"
    state = model.reason or model.state
    notes = [f"unfit: {unfit}"] if unfit else []
    notes += ["drift"] if model.drift_alarms else []
    return ", ".join([state, *notes])


def _styled(text: str, style: str | None = None) -> Text:
    return Text(text, STYLES.get(text, "") if style is None else style)
