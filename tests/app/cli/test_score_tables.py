"""What `snf score` prints, while the results come."""

import json

import pytest
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_app.cli.score_output import JsonOutput, TableOutput
from snf_client.schemas.base import examples_of
from snf_client.schemas.scores import FailedImage, ItemError, ScoredImage, Scores
from snf_client.scores import ScorePart
from snf_runtime.errors import FAILED
from tests.app.conftest import shipped_detail
from tests.client.scripted_server import Answer, scripted
from tests.support.paths import DIGITS

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


def test_the_document_is_that_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(GOOD, ScoredImage)
    assert document(capsys, ScorePart((GOOD,), "mnist-snf-glow", 1, 0)) == SCORED_DIGIT


def test_the_model_stands_first_though_it_is_told_late(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, ScorePart((BAD,)), ScorePart((BAD,)), ScorePart((GOOD, BAD), "m", 2, 3), ScorePart((GOOD,), "m", 2, 3)
    )
    assert list(found) == ["model", "version", "calibration", "count", "results"]
    assert (found["model"], found["version"], found["calibration"], found["count"]) == ("m", 2, 3, 5)
    results = found["results"]
    assert isinstance(results, list)
    assert [one["status"] for one in results] == ["error", "error", "ok", "error", "ok"]


def test_no_image_was_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(document(capsys, ScorePart((BAD,)))) == ["count", "results"]


def test_paths_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output = TableOutput()
    output.add(ScorePart((GOOD, BAD), "mnist-snf-glow", 1, 0))
    output.end()
    shown = capsys.readouterr().out
    for wanted in ("mnist-snf-glow version 1", "00027-4.png", "normal", "[bold]a.txt", "not judged", "it is text"):
        assert wanted in shown


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
