"""Tables of models, calibrations, audits and drift."""

from __future__ import annotations

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from snf_app.cli.common import fail
from snf_app.cli.live import measured
from snf_app.cli.output import Cell, TableColumn, duration, print_facts, print_table, text_of
from snf_client.schemas.calibrations import CalibrationComparison, CalibrationList, CalibrationView
from snf_client.schemas.models import Audit, DriftReport, ModelDetail, ModelPage, ModelSummary
from snf_models.artifacts.manifest import Manifest, TrainingRecord
from snf_models.flows.architecture import Architecture, features_of
from snf_runtime.errors import FAILED

SHOWN_ALPHA = 0.01  # false-alarm rate of the shown thresholds; JSON has several
STYLES = {"ready": "green", "loading": "cyan", "failed": "bold red"}


def _images(model: ModelSummary) -> str:
    if model.fit == "tiles" and model.image_shape:
        return f"{model.image_shape[0]}, any size"
    return "x".join(map(str, model.image_shape or []))


def _state(model: ModelSummary) -> Text:
    """Return the loading state of a model and its problems, without the figures of an unfit version."""
    unfit = ", ".join(reason.code.replace("-", " ") for reason in model.unfit)
    state = model.reason or model.state
    if model.state == "unfit":
        state = f"no live version: {unfit}"
    elif unfit:
        state += f", unfit: {unfit}"
    state += ", drift" if model.drift_alarms else ""
    return Text(state, "bold red" if unfit or model.drift_alarms else STYLES.get(state, ""))


MODELS = (
    TableColumn("name", lambda model: model.name, fold=20),
    TableColumn("versions", lambda model: " ".join(map(str, model.versions)), fold=8, drop=3),
    TableColumn("live", lambda model: "none" if model.state == "unfit" else model.aliases.get("live")),
    TableColumn("architecture", lambda model: model.architecture, fold=12, drop=1),
    TableColumn("image", _images, fold=8),
    TableColumn("test bits/dim", lambda model: text_of(model.test_bits_per_dim, ".4f"), right=True, drop=2),
    TableColumn("state", _state, fold=12),
)


def print_models(page: ModelPage) -> None:
    print_table(MODELS, page.models)


def print_model(model: ModelDetail) -> None:
    """Print the details of a version; exit with code 3 if its manifest is of another version of this program."""
    try:
        manifest = Manifest.model_validate(model.manifest)
    except ValidationError as error:
        reason = f"the manifest of {model.name}:{model.version} is of another version of this program"
        raise fail(f"{reason}; --json prints it as it is", FAILED) from error
    architecture, training, evaluation = manifest.architecture, manifest.training, manifest.evaluation
    calibration, serving, fitness = model.calibration, model.serving, manifest.fitness
    facts: dict[str, Cell] = {
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
        # Those that failed stand above.
        "fit to serve": "; ".join(check.sentence for check in (fitness.checks if fitness else ()) if check.passed),
        "error of learned inverses": text_of(evaluation.reconstruction_error, ".2e"),
        "log-determinants": f"{manifest.log_dets.total:.6f} nats, of weights {manifest.log_dets.weights_sha256[:12]}",
        "active calibration": f"{calibration.number}: {calibration.problem or calibration.dataset}",
        "warning": calibration.warning,
        "smallest alpha": text_of(calibration.smallest_p, ".4g"),
        "served by": "" if serving is None else f"{serving.engine} in {serving.precision}, tiles of {serving.tile}",
        "drift": ", ".join(window.source or "all sources" for window in model.drift if window.alarm),
    }
    print_facts(facts, f"{model.name}:{model.version}")


def _ranked_images(calibration: CalibrationView) -> str:
    if calibration.problem:
        return ""
    copies = f" ({calibration.copies} more are copies)" if calibration.copies else ""
    return f"{calibration.statistics_images} + {calibration.calibration_images}{copies}"


def _precision(calibration: CalibrationView) -> str:
    if calibration.problem:
        return ""
    deviation = calibration.deviation
    return str(calibration.precision) + ("" if deviation is None else f" ± {deviation.median:.2g} nats")


def _threshold(calibration: CalibrationView) -> str:
    """Return the threshold that keeps the false-alarm rate, or the number of images that it needs."""
    shown = next((threshold for threshold in calibration.thresholds if threshold.alpha == SHOWN_ALPHA), None)
    if shown is None:
        return ""
    return text_of(shown.threshold, ".4g", f"needs {shown.images_needed} images")


CALIBRATIONS = (
    TableColumn("number", lambda calibration: calibration.number, right=True),
    TableColumn("dataset", lambda calibration: calibration.problem or calibration.dataset, fold=20),
    TableColumn("images", _ranked_images, drop=2),
    TableColumn("precision", _precision, fold=10, drop=1),
    TableColumn("smallest alpha", lambda calibration: text_of(calibration.smallest_p, ".4g"), right=True),
    TableColumn("p that keeps 1 % (95 % sure)", _threshold, fold=10),
    TableColumn("active", lambda calibration: Text("yes", "green") if calibration.active else ""),
)


def print_calibrations(calibrations: CalibrationList) -> None:
    """Print calibrations with the threshold for 1 % false alarms, warnings, and why some did not become active."""
    print_table(CALIBRATIONS, calibrations.calibrations)
    for calibration in calibrations.calibrations:
        remarks = [calibration.reason and f"when it was made: {calibration.reason}", calibration.warning]
        for remark in filter(None, remarks):
            Console(soft_wrap=True).print(f"{calibration.number}, {remark}", markup=False, highlight=False)


def print_comparison(comparison: CalibrationComparison) -> None:
    """Print two calibrations side by side, and how many verdicts on the newest images change."""
    both, verdicts = (comparison.before, comparison.after), comparison.verdicts
    rows: list[tuple[Cell, ...]] = [
        ("dataset", *(one.dataset for one in both)),
        ("calibration images", *(one.calibration_images for one in both)),
        ("precision", *(one.precision for one in both)),
        ("smallest alpha", *(f"{one.smallest_p:.4g}" for one in both)),
        ("flags at", *(", ".join(map("{:g}".format, one.attainable_alphas)) or "none of the usual" for one in both)),
        ("default alpha", *(f"{one.default_alpha:.4g}" for one in both)),
        ("flagged from T, nats", *(f"{one.threshold:.4f}" for one in both)),
    ]
    if verdicts.images:
        counts = (verdicts.anomalies_before, verdicts.anomalies_after)
        rows.append(("anomalies", *(f"{count} of {verdicts.images}" for count in counts)))
    headings = ("", *(f"{when}: calibration {one.number}" for when, one in zip(("before", "after"), both, strict=True)))
    print_table([TableColumn(heading, fold=20) for heading in headings], rows)
    console = Console(soft_wrap=True, highlight=False)
    if verdicts.images:
        console.print(f"{verdicts.to_anomaly} become anomalous, {verdicts.to_normal} become normal")
    if verdicts.refused_after:
        console.print(f"{verdicts.refused_after} were asked for at an alpha that would be refused")
    console.print(f"verdicts: {verdicts.note}")


def print_audit(audit: Audit) -> None:
    """Print each image's log-likelihood in nats, served and recomputed, and whether all agree."""
    rows = [(f"{one.source} {one.index}", one.log_likelihood, one.recomputed, one.difference) for one in audit.images]
    rows.append(("log-determinants", audit.total.cached, audit.total.recomputed, audit.total.difference))
    columns = (
        TableColumn("nats", lambda row: row[0], fold=16),
        TableColumn("with cached values", lambda row: f"{row[1]:.6f}", right=True),
        TableColumn("recomputed", lambda row: f"{row[2]:.6f}", right=True),
        TableColumn("difference", lambda row: f"{row[3]:+.1e}", right=True),
    )
    print_table(columns, rows)
    verdict = "agree" if audit.agrees else "do NOT agree"
    print(
        f"{audit.model}:{audit.version} on {audit.engine} in {audit.precision}: the numbers {verdict}; "
        f"{audit.tolerance:.1e} nats are allowed"
    )


DRIFT = (
    TableColumn("images of", lambda drift: drift.source or "all sources", fold=16),
    TableColumn("verdict", lambda drift: text_of(drift.alarm_since, "drift since %Y-%m-%d %H:%M", "no drift"), fold=16),
    TableColumn("images", lambda drift: drift.images, right=True, drop=3),
    TableColumn("capital", lambda drift: f"10^{drift.log10_capital:.1f}", right=True, drop=2),
    TableColumn("highest", lambda drift: f"10^{drift.log10_highest:.1f}", right=True),
    TableColumn("alarm from", lambda drift: f"10^{drift.log10_threshold:.1f}", right=True, drop=1),
    TableColumn("bet on", lambda drift: drift.quantity, fold=11),
)


def print_drift(report: DriftReport) -> None:
    if report.drift:
        print_table(DRIFT, report.drift)
    else:
        typer.echo(f"no image was scored by {report.model}:{report.version} with calibration {report.calibration} yet")


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
