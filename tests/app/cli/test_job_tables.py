"""Jobs and learning curves as a terminal shows them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from snf_app.cli.common import url_option
from snf_app.cli.job_tables import outcome, print_curve, print_job
from snf_app.cli.main import cli
from snf_client.schemas.base import examples_of
from snf_client.schemas.jobs import JobView
from snf_client.schemas.training import CurvePoint, TrainingCurve, Validation
from tests.client.scripted_server import Answer, scripted

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


def test_commands_that_are_suggested_for_this_machine_do_not_go_to_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNF_URL", raising=False)
    assert (url_option(None), url_option(""), url_option("http://a:1")) == ("", "", " --url http://a:1")
    monkeypatch.setenv("SNF_URL", "http://a:1")
    assert (url_option("http://a:1"), url_option("")) == ("", ' --url ""')


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
