"""The page of a report: nothing from outside, nothing unescaped, and what it says in words."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from snf_app.cli.evaluation_tables import print_report
from snf_client.schemas import evaluations as schema
from snf_models.evaluation.report import CONTENT_SECURITY_POLICY, render_html, summary

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "img", "br", "link", "input"}


def column(name: str, family: str, share: float | None, inside: bool | None) -> schema.Column:
    alarms = {"interval": (0.005, 0.02), "calibration_images": 500}
    rates = [{"alpha": alpha, "share": share, "inside": inside, **alarms} for alpha in (0.01, 0.05)]
    return schema.Column.model_validate({"name": name, "label": name, "family": family, "false_alarms": rates})


def compared(name: str, kind: str, gain: tuple[float, float, float]) -> schema.SetReport:
    rates = [{"alpha": 0.01, "share": 0.75}, {"alpha": 0.05, "share": None}]
    intervals = {"auroc_interval": (0.9, 0.95), "aupr_interval": (0.8, 0.9), "fpr95_interval": (0.1, 0.2)}
    values = {"auroc": 0.93, "aupr": 0.85, "fpr95": 0.15, "detected": rates, **intervals}
    example = {
        "name": f"{EVIL}.png",
        "p_value": 0.002,
        "statistic": 7.5,
        "log_likelihood": -600.0,
        "reason": EVIL,
        "png": "iVBORw0KGgo=",
    }
    return schema.SetReport.model_validate(
        {
            "name": name,
            "kind": kind,
            "images": {"name": name, "images": 90, "failed": 1},
            "normal_images": 80,
            "results": [{"score": score, **values} for score in ("combined", "complexity", "png-size")],
            "best_baseline": "png-size",
            "auroc_over_baseline": gain[0],
            "auroc_over_baseline_interval": gain[1:],
            "curves": [{"score": "combined", "points": [(0, 0), (0.1, 0.9), (1, 1)]}],
            "gallery": {"most": [example], "least": [example]},
        }
    )


def made(inside: bool | None = True, gain: tuple[float, float, float] = (0.1, 0.05, 0.2)) -> schema.EvaluationReport:
    share = None if inside is None else 0.01 if inside else 0.3
    count = {"name": "test", "images": 80}
    return schema.EvaluationReport(
        created=datetime(2026, 1, 2, tzinfo=UTC),
        model="digits:1",
        weights_sha256="0" * 64,
        calibration=0,
        calibration_dataset=EVIL,
        calibration_images=500,
        alphas=[0.01, 0.05],
        normal=schema.Normal.model_validate(
            {
                "name": EVIL,
                "parts": EVIL,
                "fit_images": 20,
                "thresholds": count,
                "test": count,
                "gallery": {"most": [], "least": []},
                "mean_log_likelihood": -600.5,
                "bits_per_dim": 1.1,
            }
        ),
        columns=[
            column("combined", "combined", share, inside),
            column("complexity", "whole-image", share, inside),
            column("png-size", "baseline", share, inside),
        ],
        sets=[compared(EVIL, "dataset", gain), compared("hole-8", "corruption", gain)],
        histograms=[
            schema.Histograms.model_validate(
                {"label": "T", "edges": [0, 1, 2], "sets": [{"set": EVIL, "shares": [0.4, 0.6]}]}
            )
        ],
        notes=[EVIL],
    )


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def test_the_page_is_whole_and_names_cannot_break_out() -> None:
    text = render_html(made())
    page = Page(text)
    assert page.open == []
    assert not page.all("script")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_nothing_is_fetched_from_outside() -> None:
    text = render_html(made())
    assert re.findall(r"https?://|//[a-z]|url\(|@import", text) == []
    page = Page(text)
    assert not page.all("link")
    assert {one["src"] for one in page.all("img")} == {"data:image/png;base64,iVBORw0KGgo="}
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy == CONTENT_SECURITY_POLICY


def test_it_can_be_read_without_eyes_or_light() -> None:
    text = render_html(made())
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert all("scope" in one for one in page.all("th"))
    assert all(one.get("alt") for one in page.all("img"))
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in page.all("svg"))
    assert "prefers-color-scheme: dark" in text
    dashes = [one["stroke-dasharray"] for one in page.all("path") if "line-0" in str(one.get("class"))]
    assert dashes


@pytest.mark.parametrize(
    ("inside", "gain", "words"),
    [
        (
            True,
            (0.1, 0.05, 0.2),
            ["better than the best baseline (png-size", "inside the 99 % interval", "finds 1 better"],
        ),
        (False, (-0.1, -0.2, -0.05), ["worse than the best baseline", "OUTSIDE the 99 % interval", "and 1 worse"]),
        (None, (0.0, -0.1, 0.1), ["not told apart from the best", "is not attainable: with", "finds 0 better"]),
    ],
)
def test_the_summary_says_what_the_numbers_do(
    inside: bool | None, gain: tuple[float, float, float], words: list[str]
) -> None:
    report = made(inside, gain)
    said = " ".join(summary(report))
    for one in words:
        assert one in said
    text = render_html(report)
    assert "not attainable" in text
    assert (' class="outside"' in text) == (inside is False)


def test_a_terminal_gets_the_same_numbers_uncut(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(made())
    said = capsys.readouterr().out
    for one in ("0.9300", "0.9000-0.9500", "0.8500", "75.00 %", "0.50-2.00 %", "hole-8", "+0.100"):
        assert one in said
    assert "…" not in said
