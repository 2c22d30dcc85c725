"""Each scored image has its own verdict, at its own false-alarm rate, or its own error."""

from typing import Any

from snf_models.errors import ScoreNotFinite
from snf_runtime.anomaly.judged import JudgedImage, judge_scored


def test_images_are_judged_once_for_each_alpha_and_keep_their_errors() -> None:
    judged: list[tuple[list[Any], float | None]] = []

    def judge(likelihoods: Any, alpha: float | None) -> list[Any]:
        judged.append((likelihoods, alpha))
        return [(likelihood, alpha) for likelihood in likelihoods]

    overflow = ScoreNotFinite("overflow")
    scored: list[Any] = ["a", "b", "c", overflow, "d"]
    results = judge_scored(scored, [None, 0.05, None, 0.05, 0.05], judge)
    assert judged == [(["a", "c"], None), (["b", "d"], 0.05)]
    assert results[3] is overflow
    verdicts: list[Any] = [result.verdict for result in results if isinstance(result, JudgedImage)]
    assert verdicts == [("a", None), ("b", 0.05), ("c", None), ("d", 0.05)]


def test_heat_maps_go_to_their_images() -> None:
    maps: list[Any] = ["first", "second", "third"]
    scored: list[Any] = ["a", ScoreNotFinite("overflow"), "c"]
    results = judge_scored(scored, [None] * 3, lambda likelihoods, _alpha: ["verdict"] * len(likelihoods), maps)  # type: ignore[list-item]
    assert [result.heat_map for result in results if isinstance(result, JudgedImage)] == ["first", "third"]
