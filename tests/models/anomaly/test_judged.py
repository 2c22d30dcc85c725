"""Each scored image has its own verdict, at its own false-alarm rate, or its own error."""

from types import SimpleNamespace
from typing import Any

from snf_models.errors import ScoreNotFinite
from snf_runtime.anomaly.detection import Detection, Detector


def detector(scored: list[Any], judged: list[tuple[list[Any], float | None]], maps: list[Any]) -> Detector:
    """A detector whose scores are given, and whose verdicts are pairs of score and rate."""

    class Given(Detector):
        def score_steps(self, images: Any, draws: int = 1, *, chunk_size: Any = None, observe: Any = None) -> Any:
            if observe is not None:
                observe(None, None)
            yield
            return scored

        def verdicts(self, likelihoods: Any, alpha: float | None = None) -> Any:
            judged.append((likelihoods, alpha))
            return [SimpleNamespace(of=likelihood, alpha=alpha) for likelihood in likelihoods]

        def _maps(self, *_: Any) -> Any:
            return maps

    calibration: Any = SimpleNamespace(map_threshold=lambda _alpha: None, pixels="reference")
    density: Any = SimpleNamespace(chunk_size=1)
    return Given(density, calibration)


def test_images_are_judged_once_for_each_alpha_and_keep_their_errors() -> None:
    judged: list[tuple[list[Any], float | None]] = []
    overflow = ScoreNotFinite("overflow")
    scored: list[Any] = ["a", "b", "c", overflow, "d"]
    images: Any = scored
    results = detector(scored, judged, []).detect(images, [None, 0.05, None, 0.05, 0.05])
    assert judged == [(["a", "c"], None), (["b", "d"], 0.05)]
    assert results[3] is overflow
    verdicts: list[Any] = [result.verdict for result in results if isinstance(result, Detection)]
    assert [(one.of, one.alpha) for one in verdicts] == [("a", None), ("b", 0.05), ("c", None), ("d", 0.05)]


def test_heat_maps_go_to_their_images() -> None:
    scored: list[Any] = ["a", ScoreNotFinite("overflow"), "c"]
    images: Any = scored
    results = detector(scored, [], ["first", "second", "third"]).detect(images, explain=True)
    assert [result.heat_map for result in results if isinstance(result, Detection)] == ["first", "third"]
