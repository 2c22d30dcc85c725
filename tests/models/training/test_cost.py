"""Estimates of trainings: work counted on the meta device is that of real tensors, time and memory follow from it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.bijections.base import Bijection
from models.bijections.conformance import Case, mark_initialized
from models.datasets import DatasetSummary
from models.features.flows import build_flows
from models.features.lite0 import weight_shapes
from models.features.lite0_network import Lite0Network
from models.flows.architecture import (
    Architecture,
    ConvolutionalArchitecture,
    FeatureArchitecture,
    GlowArchitecture,
    HybridArchitecture,
)
from models.flows.build import build_flow
from models.flows.no_init import NoRandomness
from models.training.config import TrainingConfig
from models.training.cost import flow_work, measure
from models.training.cost.estimate import TrainingEstimate, estimate_training
from models.training.cost.feature_work import backbone_flops, feature_work
from models.training.cost.operation_counter import Work, count, saved_bytes
from models.training.cost.throughput import ASSUMED, Throughput, store_throughput, stored_throughput
from models.training.presets import PRESETS, find_preset
from tests.models.bijections.test_conformance import CASES

Shape = tuple[int, int, int]
SMALL = find_preset("snf-glow-small").architecture((1, 28, 28), "marginal")
FEW_LAYERS = GlowArchitecture(channels=1, height=16, width=16, levels=1, steps=1, hidden=8)
CONFIG = TrainingConfig()


def splits(shape: Shape = (1, 28, 28)) -> DatasetSummary:
    return DatasetSummary(shape, 50_000, 5_000, 5_000, 10_000)


def estimated(architecture: Architecture, **config: Any) -> TrainingEstimate:
    return estimate_training(architecture, TrainingConfig(**config), splits(architecture.image_shape))


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.pixels and not case.make().context], ids=lambda case: case.name
)
def test_every_bijection_is_counted_without_knowing_it(case: Case) -> None:
    with torch.device("meta"):
        layer = case.make()
    shape = case.shapes[0]
    assert len(shape) == 3
    counted = flow_work._layer_work(layer, shape, CONFIG, 4, 8, "float32")
    assert counted.step.calls > counted.scoring.calls > 0
    assert counted.scoring.bytes > 0
    assert counted.sampling.bytes > 0
    assert (counted.quality.calls > 0) == layer.learned_inverse


@pytest.mark.parametrize("name", ["snf-glow-tiny", "snf-conv-9l", "snf-fc-2l", "relative-fc-2l", "emerging-conv-9l"])
def test_work_of_a_step_is_that_of_real_tensors(name: str) -> None:
    architecture = find_preset(name).architecture((1, 16, 16), "logit")
    flow = build_flow(architecture)
    mark_initialized(flow)
    flow.train()
    with FlopCounterMode(display=False) as real:
        x = torch.randn(3, *architecture.image_shape, requires_grad=True)
        flow.forward_pixels(x, torch.zeros(3)).log_likelihood.sum().backward()  # type: ignore[no-untyped-call]
    counted = flow_work.flow_work(architecture, CONFIG, 3, 3, "float32").step
    # What the other counter has no formula for, and float64, are small shares of these flows.
    assert counted.flops == pytest.approx(real.get_total_flops(), rel=0.3)


def test_counts_kept_from_another_flow_are_those_of_the_flow_itself() -> None:
    first, second = (GlowArchitecture(channels=1, height=16, width=16, levels=2, steps=n, hidden=8) for n in (2, 1))
    for cached in (flow_work._flow_work, flow_work._kind_work):
        cached.cache_clear()
    flow_work.flow_work(first, CONFIG, 4, 8, "float32")
    counted = flow_work._kind_work.cache_info().misses
    after_another = flow_work.flow_work(second, CONFIG, 4, 8, "float32")
    assert flow_work._kind_work.cache_info().misses == counted
    for cached in (flow_work._flow_work, flow_work._kind_work):
        cached.cache_clear()
    assert flow_work.flow_work(second, CONFIG, 4, 8, "float32") == after_another


def test_what_a_layer_saves_is_counted_in_bytes() -> None:
    layer = find_layer()
    sizes = []
    for device in ("cpu", "meta"):
        layer = layer.to(device)
        with saved_bytes(layer) as saved:
            layer(torch.zeros(5, 4, 8, 8, device=device, requires_grad=True))
        sizes.append(sum(saved))
    assert sizes[0] == sizes[1] > 5 * 4 * 64 * 4


def find_layer() -> Bijection:
    architecture = GlowArchitecture(channels=1, height=16, width=16, levels=1, steps=1, hidden=8, linear="exact")
    return next(iter(build_flow(architecture).level_list()[0].steps[2:]))  # type: ignore[return-value]


def test_a_value_that_code_asks_for_is_1() -> None:
    def ask() -> tuple[float, bool, int]:
        tensor = torch.zeros(())
        return float(tensor), bool(tensor > 3), int(tensor.long())

    assert count(ask).outcome == (1.0, True, 1)


def test_peak_bytes_are_those_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.zeros(1000)

    assert count(one_after_the_other).peak_bytes == 4000
    assert count(lambda: [torch.zeros(1000) for _ in range(5)]).peak_bytes == 20_000


def test_float64_counts_twice_and_factorisations_count() -> None:
    def product_of(dtype: torch.dtype) -> Work:
        return count(lambda: torch.zeros(4, 4, dtype=dtype) @ torch.zeros(4, 4, dtype=dtype)).work

    assert (product_of(torch.float32).flops, product_of(torch.float64).flops) == (128, 256)
    assert count(lambda: torch.linalg.slogdet(torch.zeros(2, 6, 6))).work.flops == 2 * 2 * 6**3 / 3


def test_slowdown_stretches_time_and_nothing_else() -> None:
    once, twice = (estimate_training(SMALL, CONFIG, splits(), slowdown=slowdown) for slowdown in (1.0, 2.0))
    assert twice.seconds == pytest.approx(2 * once.seconds)
    assert twice.memory_bytes == once.memory_bytes


def test_a_fast_machine_takes_less_time() -> None:
    rates = {name: 2 * rate for name, rate in ASSUMED.model_dump().items()} | {"start_seconds": 1.0}
    fast = estimate_training(SMALL, CONFIG, splits(), Throughput(**rates))
    assert fast.seconds == pytest.approx(estimated(SMALL).seconds / 2, rel=0.05)
    of_a_gpu = estimate_training(SMALL, CONFIG, splits(), Throughput(**rates), device="cuda")
    assert of_a_gpu.evaluation_seconds == estimated(SMALL).evaluation_seconds, "evaluation is done on the CPU"


def test_minutes_cap_the_whole_training() -> None:
    free, capped = estimated(SMALL, max_steps=100_000), estimated(SMALL, max_steps=100_000, max_minutes=10)
    assert free.seconds > 1000
    assert capped.seconds == pytest.approx(600)
    assert (capped.start_seconds, capped.evaluation_seconds) == (free.start_seconds, free.evaluation_seconds)
    slow = estimate_training(SMALL, TrainingConfig(max_steps=100_000, max_minutes=1), splits(), slowdown=3.0)
    assert slow.seconds == pytest.approx(60)
    assert slow.evaluation_seconds == 15 < 3 * free.evaluation_seconds, "with fewer images"
    assert estimated(SMALL, max_steps=10, max_minutes=1000).seconds == estimated(SMALL, max_steps=10).seconds


@pytest.mark.parametrize(
    "more",
    [
        {"max_steps": 4000},
        {"batch_size": 128},
        {"max_steps": 40_000, "validation_images": 4000},
        {"max_steps": 40_000, "validations": 40},
        {"symmetric_reconstruction": True},
        {"noise_reconstruction": 1.0},
        {"refresh_inverse_every": 1},
        {"optimizer": "muon"},
    ],
    ids=str,
)
def test_more_work_takes_more_time(more: dict[str, Any]) -> None:
    steps = {"max_steps": more["max_steps"]} if len(more) > 1 else {}
    assert estimated(FEW_LAYERS, **more).seconds > estimated(FEW_LAYERS, **steps).seconds


def test_the_kernels_of_every_layer_are_orthogonalized() -> None:
    def more(steps: int) -> float:
        architecture = FEW_LAYERS.model_copy(update={"steps": steps})
        muon, adam = (
            flow_work.flow_work(architecture, TrainingConfig(optimizer=optimizer), 4, 8, "float32").step.flops
            for optimizer in ("muon", "adam")
        )
        return muon - adam

    assert more(3) == 3 * more(1) > 0


def test_more_directions_take_more_time() -> None:
    dense = find_preset("snf-fc-2l").architecture((1, 28, 28), "logit")
    few, many = (estimated(dense, corrected_directions=count).seconds for count in (10, 400))
    assert few < many


def test_low_precision_takes_less_time() -> None:
    half, single = (estimated(FEW_LAYERS, precision=precision).seconds for precision in ("bfloat16", "float32"))
    assert half < single


def test_evaluation_takes_time_by_its_images() -> None:
    def evaluation(**sizes: int) -> float:
        parts = {"train": 50_000, "statistics": 5_000, "calibration": 5_000, "test": 10_000} | sizes
        return estimate_training(SMALL, CONFIG, DatasetSummary((1, 28, 28), **parts)).evaluation_seconds

    assert evaluation(test=20_000) > evaluation()


def test_memory_grows_with_batch_images_and_width() -> None:
    base = estimated(SMALL).memory_bytes
    assert 300e6 < base < 1.5e9
    assert estimated(SMALL, batch_size=512).memory_bytes > base
    many = DatasetSummary((1, 28, 28), 5_000_000, 5_000, 5_000, 10_000)
    assert estimate_training(SMALL, CONFIG, many).memory_bytes > base + 3e9
    medium = find_preset("snf-glow-medium").architecture((1, 28, 28), "marginal")
    assert estimated(medium).memory_bytes > base


def built_parameters(architecture: Architecture) -> int:
    with torch.device("meta"), NoRandomness():
        flows = build_flows(architecture)
    return sum(parameter.numel() for parameter in flows.parameters())


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_plausible_estimate_of_the_flow_that_is_built(name: str) -> None:
    config = find_preset(name).config({})
    architecture = find_preset(name).architecture((1, 16, 16), config.pixel_transform)
    got = estimate_training(architecture, config, splits((1, 16, 16)))
    assert 10 < got.seconds < 1e8
    assert 2e8 < got.memory_bytes < 1e11
    assert got.parameters == built_parameters(architecture)


@pytest.mark.parametrize(
    "architecture",
    [
        GlowArchitecture(channels=3, height=16, width=8, levels=2, steps=2, hidden=8, linear="lu"),
        ConvolutionalArchitecture(
            channels=3, height=16, width=8, blocks=1, layers=2, linear="self-normalizing-two-layer", kernel=5
        ),
    ],
    ids=lambda architecture: architecture.linear,
)
def test_parameters_of_linear_layers_that_no_preset_has_are_those_of_the_built_flow(architecture: Architecture) -> None:
    assert estimated(architecture).parameters == built_parameters(architecture)


FEATURES = find_preset("snf-features").architecture((3, 256, 256), "marginal")
SIDE = (3, 256, 256)


def test_the_backbone_is_counted_as_torch_counts_it() -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes().items()}
    network = Lite0Network(weights)
    with FlopCounterMode(display=False) as operations:
        network(torch.zeros(1, 3, 96, 64))
    assert backbone_flops(96, 64) == operations.get_total_flops()


def test_a_fit_of_features_takes_time_by_its_images_and_repeats_for_folds() -> None:
    def estimate(**sizes: int) -> TrainingEstimate:
        parts = {"train": 800, "statistics": 100, "calibration": 100, "test": 0} | sizes
        return estimate_training(FEATURES, CONFIG, DatasetSummary(SIDE, **parts))

    usual = estimate()
    assert usual.training_seconds < estimate(train=1600).training_seconds
    assert usual.evaluation_seconds < estimate(test=1000).evaluation_seconds
    assert usual.seconds < 60
    suspicious = TrainingConfig(suspect_share=0.1)
    twice = estimate_training(FEATURES, suspicious, DatasetSummary(SIDE, 800, 100, 100, 0))
    assert 2 * usual.training_seconds < twice.training_seconds < 3.5 * usual.training_seconds
    few = {"train": 240, "statistics": 160, "calibration": 0}
    split, folded = estimate(**few), estimate(**few, folds=5, whole_folds=5)
    assert folded.training_seconds > 2 * split.training_seconds
    assert folded.parameters == 6 * split.parameters
    # Above 400 images, too, but for Glow steps: each image then passes the backbone for the fit and for its rank.
    many = estimate(whole_folds=5)
    assert many.training_seconds + many.evaluation_seconds > 1.5 * (usual.training_seconds + usual.evaluation_seconds)
    assert many.memory_bytes > usual.memory_bytes + 1000 * 4 * 152 * 256
    with_steps = TrainingConfig(feature_steps=1)
    summaries = [DatasetSummary(SIDE, 800, 100, 100, 0, whole_folds=folds) for folds in (0, 5)]
    assert len({estimate_training(FEATURES, with_steps, summary) for summary in summaries}) == 1
    assert 1e9 < usual.memory_bytes < 4e9
    assert estimate(train=100_000).memory_bytes - usual.memory_bytes == pytest.approx(99_200 * 3 * 256 * 256)


def test_glow_steps_over_features_add_their_updates_and_weights() -> None:
    def estimate(steps: int, updates: int = 300, folds: int = 0) -> TrainingEstimate:
        config = CONFIG.model_copy(update={"feature_steps": steps, "feature_updates": updates})
        return estimate_training(FEATURES, config, replace(splits(SIDE), folds=folds, whole_folds=folds))

    longer = [estimate(2, updates).training_seconds - estimate(0).training_seconds for updates in (100, 300)]
    assert 0 < longer[0] == pytest.approx(longer[1] / 3)
    assert estimate(2, folds=5) == estimate(0, folds=5)
    assert isinstance(FEATURES, FeatureArchitecture)
    for linear in ("exact", "self-normalizing"):
        architecture = FEATURES.model_copy(update={"linear": linear, "steps": 3})
        flows = build_flows(architecture)
        assert feature_work(architecture).parameters == sum(weights.numel() for weights in flows.parameters())


def test_a_hybrid_takes_what_its_pixels_and_its_features_take() -> None:
    shape = (1, 32, 32)
    hybrid = find_preset("snf-hybrid").architecture(shape, "marginal")
    assert isinstance(hybrid, HybridArchitecture)
    both, pixels, features = (
        estimate_training(part, CONFIG, splits(shape)) for part in (hybrid, hybrid.pixels, hybrid.features)
    )
    assert both.training_seconds == pixels.training_seconds
    assert both.seconds == pytest.approx(pixels.seconds + features.seconds - features.start_seconds)
    assert both.parameters == pixels.parameters + features.parameters
    assert max(pixels.memory_bytes, features.memory_bytes) < both.memory_bytes


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images \(1, 28, 28\)"):
        estimate_training(SMALL, CONFIG, splits((1, 32, 32)))


def test_throughput_is_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache" / "throughput-cpu-2.json"
    assert stored_throughput(path) is None
    store_throughput(path, ASSUMED)
    assert stored_throughput(path) == ASSUMED
    path.write_text('{"flops_per_second": 1')
    assert stored_throughput(path) is None
    assert "throughput-cpu-2.json" in caplog.text


def test_rates_are_found_from_the_times_of_steps() -> None:
    works = tuple(
        Work(flops=1e9 * a, low_precision_flops=1e9 * b, bytes=1e8 * c, calls=1e3 * d)
        for a, b, c, d in product((1, 5), (0, 3), (1, 4), (1, 7))
    )
    rates = measure.fitted_rates(works, tuple(map(ASSUMED.seconds, works)))
    assert rates == pytest.approx({name: getattr(ASSUMED, name) for name in measure.RATES})
    single = tuple(Work(work.flops, 0.0, work.bytes, work.calls) for work in works)
    rates = measure.fitted_rates(single, tuple(map(ASSUMED.seconds, single)))
    assert rates["low_precision_flops_per_second"] == pytest.approx(rates["flops_per_second"])


def test_throughput_is_measured_by_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "DISK_BYTES", 1024)
    monkeypatch.setattr(measure, "PROBES", (("snf-glow-tiny", (1, 8, 8), 2, "float32"),))
    measured = measure.measure_throughput(tmp_path, 1.5)
    assert measured.start_seconds == 1.5
    assert measured.calls_per_second > 0
    assert list(tmp_path.iterdir()) == []
    assert measured != ASSUMED
