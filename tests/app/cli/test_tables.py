"""Jobs, curves, models and scores as a terminal shows them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from snf_app.cli.common import url_option
from snf_app.cli.job_tables import outcome, print_curve, print_job
from snf_app.cli.main import cli
from snf_app.cli.model_tables import print_model, print_models
from snf_app.cli.score_output import JsonOutput, TableOutput
from snf_client.schemas.base import examples_of
from snf_client.schemas.jobs import JobView
from snf_client.schemas.models import ModelDetail, ModelPage, ModelSummary, UnfitReason
from snf_client.schemas.scores import FailedImage, ItemError, ScoredImage, Scores
from snf_client.schemas.training import CurvePoint, TrainingCurve, Validation
from snf_client.scores import ScorePart
from snf_runtime.errors import FAILED
from tests.app.conftest import shipped_detail
from tests.client.scripted_server import Answer, scripted
from tests.support.paths import DIGITS

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def job(**known: Any) -> JobView:
    made = {"dataset": "bottles", "model": "bottles", "progress": {"step": 50, "steps": 200, "fraction": 0.25}}
    return JobView.model_validate(examples_of(JobView)[0] | made | known)


def words(text: str) -> str:
    return " ".join(text.split())


def test_commands_that_are_suggested_reach_the_service_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have ``--url`` unless ``SNF_URL`` says the same."""
    ended = {"status": "succeeded", "finished_at": NOW}
    unfit = {"ref": "bottles:1", "live": False, "unfit": [{"code": "hardly-trained", "detail": "hardly trained"}]}
    unused = {"calibration": 2, "ref": "bottles:1", "smallest_p": 0.1, "active": False, "reason": "it is coarser"}
    for result, command in (
        (unfit, "snf models alias bottles live 1"),
        (unused, "snf models use-calibration bottles:1 2"),
    ):
        answer = Answer(body=job(result=result, **ended).model_dump(mode="json"))
        with scripted(answer, answer) as server:
            show = ["jobs", "show", job().id, "--url", server.url]
            monkeypatch.delenv("SNF_URL", raising=False)
            assert f"{command} --url {server.url}" in words(CliRunner().invoke(cli, show).stdout)
            monkeypatch.setenv("SNF_URL", server.url)
            shown = words(CliRunner().invoke(cli, show[:3]).stdout)
            assert command in shown
            assert "--url" not in shown


def test_a_failed_job_says_why_whatever_brackets_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"title": "Out of memory", "detail": "[bold]needs 3 GB[/]"}
    print_job(job(status="failed", error=error, finished_at=NOW + timedelta(minutes=2)))
    shown = capsys.readouterr().out
    assert "Out of memory: [bold]needs 3 GB[/]" in shown
    assert "ETA" not in shown


def test_a_curve_is_drawn_once_it_has_two_points(capsys: pytest.CaptureFixture[str]) -> None:
    def curve(steps: int) -> TrainingCurve:
        points = [
            CurvePoint(step=step, time=NOW, attempt=1, bits_per_dim=3 / step, reconstruction_error=10.0**-step)
            for step in range(1, steps + 1)
        ]
        found = [Validation(step=steps, time=NOW, attempt=1, bits_per_dim=1.25)]
        return TrainingCurve(job="06f8m2q1x3z4c5v6b7n8m9k0j1", points=points, validations=found)

    print_curve(curve(1))
    assert "no curve yet" in capsys.readouterr().out
    print_curve(curve(6))
    shown = capsys.readouterr().out
    assert "training 0.5" in shown
    assert "validation 1.25" in shown
    assert "reconstruction error 1e-06" in shown
    assert any(0x2800 < ord(one) < 0x2900 for one in shown)  # Braille dots
    assert "steps 1 to 6" in shown


@pytest.fixture
def shown() -> ModelDetail:
    return shipped_detail()


def test_unfit_models_are_said_to_be_so(
    shown: ModelDetail, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    reason = UnfitReason(code="diverged", detail="diverged: the last validation is worse")
    print_model(shown.model_copy(update={"unfit": [reason]}))
    assert "diverged: the last validation is worse" in capsys.readouterr().out
    facts: dict[str, Any] = {"name": "m", "versions": [1], "read_only": False, "architecture": "a", "kind": "density"}
    facts |= {"image_shape": [1, 8, 8], "test_bits_per_dim": 2.0, "size_bytes": 1, "unfit": [reason]}
    models = [
        ModelSummary(**facts, state="unfit", reason="no version of m is live", aliases={}),
        ModelSummary(**facts, state="ready", reason=None, aliases={"live": 1}),
    ]
    print_models(ModelPage(models=models))
    said = capsys.readouterr().out
    assert "none" in said
    assert "no live version: diverged" in said
    assert "ready, unfit: diverged" in said


@pytest.mark.parametrize("change", [{"format_version": 3}, {"architecture": {}}], ids=["format", "architecture"])
def test_a_manifest_of_another_version_is_no_traceback(
    shown: ModelDetail, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as raised:
        print_model(shown.model_copy(update={"manifest": shown.manifest | change}))
    assert raised.value.exit_code == 3
    assert "the manifest of mnist-snf-glow:1 is of another version of this program" in capsys.readouterr().err


def test_an_export_takes_no_path_from_the_service(
    shown: ModelDetail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    named = shown.model_copy(update={"name": "../outside"}).model_dump(mode="json")
    with scripted(Answer(200, named), Answer(200, b"content")) as server:
        done = CliRunner().invoke(cli, ["models", "export", "digits", "--url", server.url])
    assert (done.exit_code, "expected 1 to 64 of a-z" in done.stderr) == (FAILED, True)
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == []


SCORED_DIGIT = examples_of(Scores)[0]
[GOOD] = Scores.model_validate(SCORED_DIGIT).results
ERROR = ItemError(type="undecodable-image", title="No image", status=422, detail="it is text")
BAD = FailedImage(index=0, filename="[bold]a.txt", status="error", error=ERROR)


def document(capsys: pytest.CaptureFixture[str], *parts: ScorePart) -> dict[str, object]:
    output = JsonOutput(sum(len(part.results) for part in parts))
    for part in parts:
        output.add(part)
    output.end()
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_model_stands_first_though_it_is_told_late(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, ScorePart((BAD,)), ScorePart((BAD,)), ScorePart((GOOD, BAD), "m", 2, 3), ScorePart((GOOD,), "m", 2, 3)
    )
    assert list(found) == ["model", "version", "calibration", "count", "results"]
    assert (found["model"], found["version"], found["calibration"], found["count"]) == ("m", 2, 3, 5)
    results = found["results"]
    assert isinstance(results, list)
    assert [one["status"] for one in results] == ["error", "error", "ok", "error", "ok"]


def test_paths_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = TableOutput()
    output.add(ScorePart((GOOD, BAD), "mnist-snf-glow", 1, 0))
    output.end()
    shown = capsys.readouterr().out
    for wanted in ("mnist-snf-glow version 1", "00027-4.png", "normal", "[bold]a.txt", "not judged", "it is text"):
        assert wanted in shown


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("calibrations", [(0, 7), (7, 7)])
def test_no_output_is_of_two_calibrations(calibrations: tuple[int, int], options: list[str]) -> None:
    model = shipped_detail().model_dump(mode="json")
    answers = [Answer(body=SCORED_DIGIT | {"calibration": calibration}) for calibration in calibrations]
    with scripted(Answer(body=model), *answers) as server:
        command = ["score", *map(str, DIGITS[:2]), "--draws", "32", "--url", server.url, *options]
        done = CliRunner().invoke(cli, command)
    assert done.exit_code == FAILED
    assert "expected scores of mnist-snf-glow:1 with calibration 0, got some of calibration 7" in done.stderr


def test_a_fit_in_closed_form_has_no_curve(capsys: pytest.CaptureFixture[str]) -> None:
    points = [CurvePoint(step=step, time=NOW, attempt=1, images_per_second=200.0) for step in (32, 64, 96)]
    print_curve(TrainingCurve(job="one", points=points, validations=[]))
    assert "fitted in closed form" in capsys.readouterr().out


def test_the_outcome_of_a_limit() -> None:
    result: dict[str, Any] = {"model": "bottles", "version": 1, "ref": "bottles:1", "limit": 2, "calibration": 0}
    result |= {"alpha": 0.01, "sizes": {"hole": 4, "spot, 32 grey levels": None}, "not_determinable": None}
    made = "detection limit 2 of bottles:1 at alpha 0.01"
    assert outcome(result) == f"{made}; hole: 4 pixels; spot, 32 grey levels: none"
    few = result | {"sizes": {}, "not_determinable": "bottles has 12 good images for it"}
    assert outcome(few) == f"{made} is not determinable: bottles has 12 good images for it"


def test_the_outcome_of_a_recommendation() -> None:
    result: dict[str, Any] = {"proposal": "features", "preset": "snf-features", "reasons": ["smaller limits", "a tie"]}
    assert outcome(result) == "proposes features (snf-features): smaller limits; a tie"
    none = {"proposal": None, "preset": None, "reasons": ["nothing was measured"], "seconds": 3.0}
    assert outcome(none) == "proposes no family: nothing was measured"


def test_no_image_was_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(document(capsys, ScorePart((BAD,)))) == ["count", "results"]


def test_commands_that_are_suggested_for_this_machine_do_not_go_to_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNF_URL", raising=False)
    assert (url_option(None), url_option(""), url_option("http://a:1")) == ("", "", " --url http://a:1")
    monkeypatch.setenv("SNF_URL", "http://a:1")
    assert (url_option("http://a:1"), url_option("")) == ("", ' --url ""')


def test_the_document_is_that_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(GOOD, ScoredImage)
    assert document(capsys, ScorePart((GOOD,), "mnist-snf-glow", 1, 0)) == SCORED_DIGIT


def test_a_density_of_features_has_no_bits(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(GOOD, ScoredImage)
    features = GOOD.model_copy(update={"kind": "feature_density", "bits_per_dim": None})
    for result, title in ((features, "m version 2, log-likelihoods of features"), (GOOD, "m version 2")):
        output = TableOutput()
        output.add(ScorePart((result,), "m", 2, 0))
        output.end()
        first, *rows = (line.strip() for line in capsys.readouterr().out.splitlines())
        assert first == title
        assert any("0.9491" in row for row in rows) == (result is GOOD)
        assert any("-515.775" in row for row in rows)
