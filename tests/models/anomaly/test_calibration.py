"""From evidence to verdicts: joining, split and cross-conformal p-values, alphas, reasons, overflow."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.stats import betabinom

from snf_models.anomaly.calibrate import ReferenceEvidence, fit_cross, fit_split
from snf_models.anomaly.exchangeability import ConformalMartingale, RankCounts
from snf_models.anomaly.reference_images import reference_of
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.artifacts.files import CALIBRATION
from snf_models.datasets import Dataset, load_dataset
from snf_models.errors import AlphaUnattainable, ArtifactError, ImageError
from snf_models.registry.calibrations import calibration_bytes, load_calibration, save_calibration
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_runtime.anomaly.calibration import MAX_STATISTIC, Calibration
from snf_runtime.anomaly.detection import StoredEvidence, rejudge
from snf_runtime.anomaly.statistics import EvidenceKind, merge, weights
from snf_runtime.anomaly.verdict import MAX_REASONS, MIN_SHARE
from snf_runtime.scoring.evidence import white_levels
from tests.models.anomaly import evidences
from tests.models.anomaly.evidences import GRID, IMAGE, NAMES, evidence, reference, split
from tests.models.helpers import real_images
from tests.support.backbones import backbone_folder
from tests.support.trained import barely_trained, hybrid_artifact


@pytest.mark.parametrize(
    "kinds",
    [("whole",), ("whole", "local"), ("features",), ("whole", "local", "features")],
    ids="-".join,
)
def test_merging_is_the_weighted_harmonic_mean_of_p_values(kinds: tuple[EvidenceKind, ...]) -> None:
    surprises = np.random.default_rng(0).gamma(1, 5, (200, len(kinds)))
    merged = merge(surprises, weights(kinds))
    assert (merged <= surprises.max(1) + 1e-12).all()
    p = np.exp(-surprises)
    weight = np.array([{"whole": 1, "local": 0.25, "features": 1}[kind] for kind in kinds])
    expected = -np.log(weight.sum() / (weight / p).sum(1))
    np.testing.assert_allclose(merged, expected, rtol=1e-12, atol=1e-12)
    more = surprises.copy()
    more[:, 0] += 1
    assert (merge(more, weights(kinds)) >= merged).all()


def test_strong_evidence_of_one_family_is_not_drowned() -> None:
    assert merge(np.array([[20.0, 0.0]]), weights(("whole", "local")))[0] > 18
    three: tuple[EvidenceKind, ...] = ("whole", "local", "features")
    assert merge(np.array([[2000.0, 0.0, 0.0]]), weights(three))[0] == pytest.approx(2000 - math.log(2.25))


def test_split_p_values_by_hand() -> None:
    calibration = split()
    fold = calibration.folds[0]
    new, held_out = evidence(40, 7), evidence(99, 2)
    families = fold.statistic.group_surprises(new)
    assert families.shape == (40, 2)
    columns = np.concatenate([new.whole, fold.statistic.local.unevenness(new.cells)], axis=1)
    np.testing.assert_allclose(families[:, 0], fold.statistic.whole.surprise(columns))
    np.testing.assert_allclose(families[:, 1], fold.statistic.local.surprise(new.cells, new.whole[:, 0]))
    kinds = fold.statistic.kinds
    assert kinds == ("whole", "local")
    t, calibrated = (merge(of, weights(kinds)) for of in (families, fold.statistic.group_surprises(held_out)))
    np.testing.assert_allclose(fold.ordered, np.sort(calibrated), rtol=1e-9)
    expected = [(1 + sum(c >= one for c in calibrated)) / 100 for one in t]
    assert calibration.p_values(new).tolist() == expected
    assert calibration.images == 99
    assert calibration.smallest_p == 1 / 100


def test_cross_conformal_p_values_by_hand() -> None:
    """Fold by fold: each image of a fold and the new one by the fit to the other folds."""
    folds = np.random.default_rng(0).permutation(np.arange(83) % 5).astype(np.int8)
    calibration = fit_cross(reference(83, 1), folds, NAMES, GRID)
    everything, new = evidence(83, 1), evidence(30, 5)
    # Each was fitted to the other images and to nothing else.
    alone = [fit_split(part(folds != number), part(folds == number), NAMES, GRID).folds[0] for number in range(5)]
    at_least = np.zeros(30, dtype=int)
    for number, fold in enumerate(calibration.folds):
        of_fold = fold.statistic(everything[folds == number])
        at_least += (of_fold[:, None] >= fold.statistic(new)[None]).sum(0)
        np.testing.assert_allclose(alone[number].statistic(new), fold.statistic(new), rtol=1e-9)
    assert calibration.p_values(new).tolist() == ((1 + at_least) / 84).tolist()
    assert calibration.images == 83


def test_suspects_are_left_out_of_the_fit_and_not_of_the_ranks() -> None:
    everything = reference(50, 1)
    everything.evidence.cells[:2] += 30
    calibration = fit_cross(everything, np.arange(50) % 5, NAMES, GRID, 0.05)
    assert sum(map(len, calibration.ordered())) == 50
    [p] = calibration.p_values(everything.evidence[:1])
    assert 2 / 51 <= p <= 3 / 51, "one of two suspects among 50 images"


def part(chosen: NDArray[np.bool_]) -> ReferenceEvidence:
    whole = reference(len(chosen), 1)
    return replace(whole, evidence=whole.evidence[chosen], log_likelihoods=whole.log_likelihoods[chosen])


@pytest.mark.parametrize("seed", range(3))
def test_false_alarms_are_those_of_the_interval(seed: int) -> None:
    n, tests = 499, 1000
    fitted, held_out = reference(300, 10 + seed), reference(n, 20 + seed)
    calibration = fit_split(fitted, held_out, NAMES, GRID)
    p = calibration.p_values(evidence(tests, 30 + seed))
    for alpha in (0.01, 0.05, 0.2):
        ranks = round(alpha * (n + 1))
        low, high = betabinom(tests, ranks, n + 1 - ranks).interval(0.9999)
        assert low <= (p <= alpha).sum() <= high


def test_strange_evidence_of_every_family_is_found() -> None:
    calibration = split()
    usual = evidence(20, 5)
    for change in ("whole", "cells"):
        strange = replace(usual, **{change: getattr(usual, change).copy()})
        values = getattr(strange, change)
        values[:, 4 if change == "whole" else 1] += 25
        assert (calibration.p_values(strange) == 1 / 100).all(), change


def test_verdicts_say_what_they_are() -> None:
    calibration = split()
    some = evidence(60, 5)
    some.whole[:30, 5] += np.linspace(0, 12, 30)
    p, t = calibration.p_values(some), calibration.typical_statistics(some)
    found = calibration.judge(some, NAMES, IMAGE, alpha=0.05)
    for one, p_value, statistic in zip(found, p.tolist(), t.tolist(), strict=True):
        assert one.p_value == p_value
        assert one.score == pytest.approx(-math.log10(p_value))
        assert one.is_anomaly == (p_value <= 0.05)
        assert one.alpha == 0.05
        assert one.statistic == statistic
        assert one.extrapolated == (statistic > calibration.ordered()[0][-1])
        assert one.smallest_p == 1 / 100
    assert {one.is_anomaly for one in found} == {True, False}
    assert calibration.judge(some[:0], NAMES, IMAGE) == []


def test_an_image_less_strange_than_all_has_score_zero() -> None:
    calibration = split()
    usual = evidence(1000, 5)
    most_usual = usual[np.argmin(calibration.typical_statistics(usual), keepdims=True)]
    found = calibration.judge(most_usual, NAMES, IMAGE)[0]
    assert found.p_value == 1
    assert str(found.score) == "0.0", "not minus zero"


@pytest.mark.parametrize("grid", [GRID, None])
def test_reasons(grid: tuple[int, int] | None) -> None:
    calibration = fit_split(reference(300, 1), reference(99, 2), NAMES, grid)
    some = evidence(50, 5)
    some.whole[:10, 4] -= 20
    some.cells[10:20, 14:16] += 30
    found = calibration.judge(some, NAMES, IMAGE)
    for one in found:
        shares = [reason.share for reason in one.reasons]
        assert 1 <= len(shares) <= MAX_REASONS
        assert shares == sorted(shares, reverse=True)
        assert all(MIN_SHARE <= share <= 1 for share in shares)
        assert sum(shares) <= 1 + 1e-9
        assert all(reason.text and reason.feature for reason in one.reasons)
        assert all((reason.box is not None) == (reason.feature == "region") for reason in one.reasons)
    for one in found[:10]:
        assert one.reasons[0].feature == "radius-1"
        assert one.reasons[0].z < -3
        assert "too smooth at scale 1" in one.reasons[0].text
    if grid:
        for one in found[10:20]:
            assert one.reasons[0].feature == "region"
            assert one.reasons[0].z > 3
            # Cells 14 and 15 of 6 by 6 are row 2, columns 2 and 3; the image has 12 by 12 pixels, of a side of 1.
            left, top, right, bottom = one.reasons[0].box or (0, 0, 0, 0)
            assert left < 4
            assert right > 2
            assert top < 3
            assert bottom > 2


def test_arithmetic_that_overflows_is_as_strange_as_can_be() -> None:
    """Also where calibration images were so strange that their own T is beyond any number of nats."""
    for calibration in (split(), _with_last(split(), 1e30)):
        broken = evidence(4, 5)
        broken.whole[0, 4], broken.whole[1, 5], broken.cells[2, 3], broken.whole[3, 2] = np.nan, np.inf, np.nan, -np.inf
        assert calibration.p_values(broken).tolist() == [1 / 100] * 4
        found = calibration.judge(broken, NAMES, IMAGE)
        assert all(one.is_anomaly and one.statistic == MAX_STATISTIC for one in found)
        assert all(math.isfinite(reason.share) for one in found for reason in one.reasons)


def _with_last(calibration: Calibration, value: float) -> Calibration:
    fold = calibration.folds[0]
    ordered = fold.ordered.copy()
    ordered[-1] = value
    return replace(calibration, folds=(replace(fold, ordered=ordered),))


def counts(levels: np.ndarray) -> list[int]:
    return [int((levels == level).sum()) for level in range(256)]


def test_a_white_level_is_the_ninety_ninth_percentile_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((1, 5, 4), (3, 32, 32), (1, 200, 11))]
    large = generator.normal(120, 20, (300, 200, 3)).clip(0, 255).astype(np.uint8)
    images += [large.transpose(2, 0, 1), np.ascontiguousarray(large[:, :, :1].transpose(2, 0, 1))]
    expected = [np.percentile(image, 99, method="inverted_cdf") for image in images]
    assert white_levels(images).tolist() == expected
    for bound in ("SMALL", "AT_ONCE"):
        monkeypatch.setattr(f"snf_runtime.scoring.evidence.{bound}", 50)  # counted by rows, as large images are
    assert white_levels(images).tolist() == expected
    assert white_levels([]).tolist() == []


def test_light_a_tenth_weaker_is_found_in_two_hundred_digits() -> None:
    mini = load_dataset("mnist-mini", None)
    usual = counts(white_levels(np.concatenate([mini.statistics, mini.calibration])))
    recent = mini.train[:200]
    darker = np.rint(recent * 0.9).astype(np.uint8)
    highest = []
    for images in (recent, darker):
        martingale = ConformalMartingale()
        martingale.bet(RankCounts.of(usual).add(white_levels(images).astype(np.int64)))
        highest.append(martingale.log_highest)
    assert highest[0] < math.log(20)
    assert highest[1] > math.log(1e20)


@pytest.mark.parametrize("make", [barely_trained, hybrid_artifact])
def test_they_are_those_of_scoring(
    make: Callable[[pytest.TempPathFactory], Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    engine = EngineOptions("torch", threads=1, backbones=backbone_folder(tmp_path_factory))
    registry = Registry(tmp_path / "registry", zoo=tmp_path / "none")
    version = registry.publish(make(tmp_path_factory), "digits", promote=True)
    scorer = load_model(version.path, options=engine)
    images = np.maximum(real_images(50), np.roll(real_images(50), 1, axis=3))
    dataset = Dataset("thick", images[:20], images[20:30], images[30:], test=images[:0], digest="thick")
    calibration, summary = scorer.calibrate(reference_of(dataset, scorer.manifest), lambda *_: None)
    registry.calibrations("digits", 1).publish(calibration_bytes(calibration), summary)
    other = registry.resolve("digits")
    other_scorer = load_model(other.path, other.calibration_path, engine)
    digits = real_images(150)[100:]
    seen = np.concatenate([digits[:25], np.maximum(digits[25:], np.roll(digits[25:], 1, axis=3)), 255 - digits[:3]])
    alphas = [None if number % 2 else 0.4 for number in range(len(seen))]
    first = scorer.detect(seen, alphas)
    stored = []
    for judged, alpha in zip(first, alphas, strict=True):
        stored.append(StoredEvidence.of(judged.likelihood.evidence, alpha, scorer.density.precision))
    for of_scoring, scored in ((scorer, first), (other_scorer, other_scorer.detect(seen, alphas))):
        flagged = [not isinstance(one, ImageError) and one.verdict.is_anomaly for one in scored]
        assert rejudge(of_scoring.calibration, stored) == flagged
    assert rejudge(scorer.calibration, stored) != rejudge(other_scorer.calibration, stored)


def test_no_images_have_no_verdicts(scorer: Scorer) -> None:
    assert rejudge(scorer.calibration, []) == []


def energies_of(*channels: int) -> list[str]:
    """The names of the energies of levels with so many channels."""
    return [f"energy-{level}-{one}" for level, count in enumerate(channels, 1) for one in range(1, count + 1)]


GREY, DEEP_GREY, COLOUR, FLAT_COLOUR = (energies_of(*levels) for levels in ((2, 8), (2, 4, 16), (6, 12), (12,)))
"""The energies of Glows over grey images, of two levels and of three, and over colour images, of two and of one."""


@pytest.mark.parametrize(
    ("energies", "shares", "images"),
    [
        (GREY, [2, 2, 2, 1], 100),
        (GREY, [2, 2, 2, 1], 2000),
        (DEEP_GREY, [2, 2, 2, 1], 100),
        (COLOUR, [1, 1, 2, 2], 100),
        (FLAT_COLOUR, [1, 1, 2, 2], 100),
    ],
    ids=["grey", "many grey", "deep grey", "colour", "flat colour"],
)
def test_surprises_are_added_by_their_shares(energies: list[str], shares: list[int], images: int) -> None:
    evidence = evidences.evidence(images, 1)
    channels = np.random.default_rng(2).normal(size=(images, len(energies)))
    statistic = fit_statistic(replace(evidence, channels=channels), (*evidences.NAMES, *energies), evidences.GRID)
    new = statistic.statistics(
        replace(
            evidences.evidence(30, 3),
            channels=np.random.default_rng(4).normal(size=(30, len(energies))),
        )
    )
    first, second, third, fourth = (
        share * view.tail.surprise(view.density.surprisal(new[:, view.columns]))
        for share, view in zip(shares, statistic.whole.views, strict=True)
    )
    expected = statistic.whole.joint.surprise(first + second + third + fourth)
    np.testing.assert_allclose(statistic.whole.surprise(new), expected, rtol=1e-12)


def test_a_model_of_grey_images_keeps_its_shares_in_the_file(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    calibration = scorer.calibration
    save_calibration(calibration, path)
    arrays = load_file(path)
    assert arrays["folds.0.statistic.whole.shares"].tolist() == [2, 2, 2, 1]
    for broken in (None, np.ones(3), np.ones((4, 1)), np.ones(())):
        kept = {name: array for name, array in arrays.items() if not name.endswith(".shares")}
        save_file(kept if broken is None else kept | {"folds.0.statistic.whole.shares": broken}, path)
        with pytest.raises(ArtifactError, match="expected 3 densities of the whole image, or 4 with 4 shares, got 4"):
            load_calibration(path)


def test_the_smallest_alpha_is_named_and_accepted() -> None:
    for held_out in (99, 98, 700, 46):
        calibration = split(60, held_out)
        smallest = 1 / (held_out + 1)
        with pytest.raises(AlphaUnattainable) as caught:
            calibration.check_alpha(0.9 * smallest)
        assert caught.value.smallest == smallest
        named = float(re.findall(r"smallest attainable is (\S+)", caught.value.detail)[0])
        assert calibration.check_alpha(named) == named, "who asks for what the message names is served"
        with pytest.raises(AlphaUnattainable):
            calibration.judge(evidence(1), NAMES, IMAGE, 0.9 * smallest)
        assert calibration.check_alpha(None) == calibration.default_alpha == max(0.01, smallest)
        strange = evidence(1)
        strange.whole[:, 3:] += 1e3
        assert calibration.judge(strange, NAMES, IMAGE, named)[0].is_anomaly


@pytest.mark.parametrize("images", [4, 5, 6])
def test_folds_of_single_images_give_verdicts(images: int) -> None:
    calibration = fit_cross(reference(images, 1), (np.arange(images) % 5).astype(np.int8), NAMES, GRID)
    assert len(calibration.judge(evidence(3, 5), NAMES, IMAGE)) == 3
