"""Engines against flows in float64, the choice among them, and the cache of compiled flows."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.coupling import FrozenCoupling
from snf_models.bijections.frozen import FrozenAffine, FrozenStep
from snf_models.errors import EngineUnavailable
from snf_models.flows.flow import Flow
from snf_models.scoring import EngineName, EngineOptions
from snf_models.scoring.cache import CompiledCache, graph_digest
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_models.scoring.open_density import OpenVINOEngine, open_engine
from snf_models.scoring.openvino_graph import forward_graph
from snf_models.scoring.torch_engine import TorchEngine
from snf_models.threads import torch_threads
from snf_runtime.scoring.openvino_engine import CompiledGraph, Program, compile_program, core
from tests.models.anomaly.flows import convolutional, fully_connected, off_inverse
from tests.models.helpers import dequantised, frozen_glow, glow, images_back, real_images, scores_of, transformed

FLOAT32 = 1e-3
"""Nats at 28x28 or less between an engine in float32 and float64."""


def points(frozen: FrozenFlow, count: int) -> Tensor:
    channels, side, _ = frozen.image_shape
    return dequantised(real_images(count, side, channels))


@torch.no_grad()
def test_convolutions_and_splines_agree_with_the_unfrozen_flow() -> None:
    flow = convolutional(8)
    frozen = freeze(flow, (1, 8, 8))
    engines = open_engine(frozen), TorchEngine(frozen)
    assert [engine.name for engine in engines] == ["openvino", "torch"], "OpenVINO runs what it knows"
    x = points(frozen, 40)
    # Saturated pixels lie outside the splines' range, where they are the identity.
    x[0, 0, :2], x[1, 0, :2] = 1e-9, 256 - 1e-9
    expected = flow.double()(x)
    for engine in engines:
        latents = engine.forward(transformed(frozen, x))
        np.testing.assert_allclose(latents.scales[0], expected.latents[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(scores_of(engine, frozen, x), expected.log_likelihood, rtol=0, atol=FLOAT32)
        back = images_back(engine, frozen, latents.scales)
        assert (back - x)[2:].abs().max() < 0.01


@pytest.mark.parametrize("name", ["torch", "openvino"])
@torch.no_grad()
def test_couplings_by_place_agree_with_the_unfrozen_flow(name: EngineName) -> None:
    flow = glow(16, pixels="logit", place=True)
    frozen = freeze(flow, (1, 16, 16))
    engine = open_engine(frozen, EngineOptions(name))
    x = points(frozen, 20)
    latents = engine.forward(transformed(frozen, x))
    expected = flow.double()(x)
    torch.testing.assert_close(scores_of(engine, frozen, x), expected.log_likelihood, rtol=0, atol=FLOAT32)
    assert (images_back(engine, frozen, latents.scales) - x).abs().max() < 0.01
    (first, _) = flow.level_list()
    first.prior.net.place.zero_()
    assert (flow(x).log_likelihood - expected.log_likelihood).abs().max() > 1, "the place matters"


@torch.no_grad()
def test_reconstruction_errors_are_those_of_the_learned_inverses() -> None:
    flow = off_inverse(glow(16))
    frozen = freeze(flow, (1, 16, 16))
    y = transformed(frozen, points(frozen, 9))
    found, expected = (engine.forward(y).reconstruction_errors for engine in (open_engine(frozen), TorchEngine(frozen)))
    for got, want in zip(found, expected, strict=True):
        assert want.shape == (9, 2)
        assert (want > 1e-6).all()
        np.testing.assert_allclose(got, want, rtol=1e-3)


@torch.no_grad()
def test_reconstruction_errors_far_below_float32_do_not_vanish() -> None:
    """Errors of 1e-25 have squares that float32 cannot hold."""
    frozen = freeze(off_inverse(glow(8)), (1, 8, 8))
    (level,) = frozen.levels

    def shrunk(step: FrozenStep) -> FrozenStep:
        if not isinstance(step, FrozenAffine) or step.reconstruction_map is None:
            return step
        matrix, offset = step.reconstruction_map
        copy = replace(step)
        vars(copy)["reconstruction_map"] = (matrix * 1e-23, offset * 1e-23)
        return copy

    sizes = tuple(1e-23 * size for size in level.reconstruction_sizes)
    small_level = replace(level, steps=tuple(map(shrunk, level.steps)), reconstruction_sizes=sizes)
    small = replace(frozen, levels=(small_level,))
    y = transformed(frozen, points(frozen, 5))
    expected = TorchEngine(frozen).forward(y).reconstruction_errors[0] * 1e-46
    np.testing.assert_allclose(open_engine(small).forward(y).reconstruction_errors[0], expected, rtol=1e-3)


def by_hand_in_bfloat16(coupling: FrozenCoupling, kept: Tensor) -> Tensor:
    """The network with the middle convolution's weights, inputs and outputs rounded, and sums in float64."""

    def rounded(x: Tensor) -> Tensor:
        return x.float().bfloat16().double()

    hidden = F.relu(F.conv2d(kept, coupling.first[0].double(), coupling.first[1].double(), padding=1))
    weight, bias = coupling.middle
    hidden = rounded(F.relu(rounded(F.conv2d(rounded(hidden), rounded(weight)) + rounded(bias).view(1, -1, 1, 1))))
    return F.conv2d(hidden, coupling.last[0].double(), coupling.last[1].double(), padding=1)


@pytest.mark.parametrize("name", ["torch", "auto"])
@torch.no_grad()
def test_bfloat16_rounds_the_middle_convolution_and_nothing_else(name: EngineName) -> None:
    flow, frozen, _ = frozen_glow(8, 1, "logit")
    x = points(frozen, 20)
    y = frozen.pixels(x)[0]
    engine = open_engine(frozen, EngineOptions(name, precision="bfloat16"))
    assert engine.precision == "bfloat16"
    (level,) = frozen.levels
    z = y
    for step in level.steps:
        if isinstance(step, FrozenCoupling):
            logits, shift = by_hand_in_bfloat16(step, z[:, : step.kept]).chunk(2, dim=1)
            z = torch.cat([z[:, : step.kept], z[:, step.kept :] * torch.exp(2 * torch.tanh(logits / 2)) + shift], 1)
        else:
            z = step.forward(z)[0]
    found = torch.from_numpy(engine.forward(y.numpy()).scales[0])
    exact = flow.double()(x).latents[0]
    by_rounding = (z - exact).abs()
    assert by_rounding.max() > 1e-3
    # Libraries round sums at other places; what is left is far below what rounding to bfloat16 does.
    assert (found - z).abs().mean() < 0.1 * by_rounding.mean()
    difference = (scores_of(engine, frozen, x) - flow(x).log_likelihood).abs()
    assert 0 < difference.max() < 0.5


def test_float32_does_not_come_back() -> None:
    frozen = frozen_glow(8, 1, "logit")[1].with_precision("bfloat16")
    with pytest.raises(ValueError, match="freeze the trained flow again"):
        frozen.with_precision("float32")


@torch.no_grad()
def test_an_image_is_the_same_to_the_bit_in_any_batch() -> None:
    frozen = freeze(off_inverse(glow(16)), (1, 16, 16))
    engine = OpenVINOEngine.open(frozen, threads=2)
    y = transformed(frozen, points(frozen, 23))
    whole = engine.forward(y)
    backwards = engine.inverse(whole.scales, "exact")
    for images in (0, 1, 2, 7, 8, 9, 23):
        part = engine.forward(y[23 - images :])
        for name in ("scales", "log_dets", "prior_log_dets", "reconstruction_errors"):
            for got, want in zip(getattr(part, name), getattr(whole, name), strict=True):
                np.testing.assert_array_equal(got, want[23 - images :], f"{images} images")
        np.testing.assert_array_equal(
            engine.inverse(part.scales, "exact"), backwards[23 - images :], f"{images} images"
        )


@torch.no_grad()
def test_micro_batches_of_any_size_give_the_same_bits() -> None:
    frozen = freeze(off_inverse(glow(16)), (1, 16, 16))
    y, results = transformed(frozen, points(frozen, 23)).astype(np.float32), []
    for size in (1, 4, 16):
        program = compile_program(Program, partial(forward_graph, frozen), 2, size)
        assert program.micro_batch == size
        results.append(program.run([y]))
    for others in results[1:]:
        for got, want in zip(others, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


class TestChoice:
    """Which engine runs a flow."""

    def test_openvino_runs_what_it_knows(self) -> None:
        assert open_engine(frozen_glow(8, 1, "logit")[1]).name == "openvino"

    def test_torch_runs_the_rest(self) -> None:
        dense = freeze(fully_connected(), (1, 6, 6))
        assert open_engine(dense).name == "torch"
        with pytest.raises(EngineUnavailable, match="layers that the engine openvino does not support"):
            open_engine(dense, EngineOptions("openvino"))

    def test_openvino_is_for_the_cpu(self) -> None:
        with pytest.raises(EngineUnavailable, match=r"expected device cpu .* got cuda:0"):
            open_engine(frozen_glow(8, 1, "logit")[1], EngineOptions("openvino", device="cuda:0"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one at every compilation."""
    found: list[bool] = []
    runtime = core()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(runtime, name)

        def compile_model(self, *arguments: Any) -> Any:
            found.append(True)
            return runtime.compile_model(*arguments)

    monkeypatch.setattr("snf_models.scoring.cache.core", Counting)
    return found


class TestCache:
    """Compiled flows on disk."""

    @pytest.fixture
    def frozen(self) -> FrozenFlow:
        return frozen_glow(8, 1, "logit")[1]

    def test_a_second_load_compiles_nothing(self, frozen: FrozenFlow, compiled: list[bool], tmp_path: Path) -> None:
        first = OpenVINOEngine.open(frozen, 2, tmp_path)
        assert len(compiled) == 2
        compiled.clear()
        second = OpenVINOEngine.open(frozen, 2, tmp_path)
        assert not compiled
        assert second.micro_batch == first.micro_batch
        x = points(frozen, 9)
        assert torch.equal(scores_of(first, frozen, x), scores_of(second, frozen, x))

    def test_an_image_alone_is_a_micro_batch_of_one_on_one_thread(
        self, frozen: FrozenFlow, compiled: list[bool], tmp_path: Path
    ) -> None:
        compile_program(Program, partial(forward_graph, frozen), 1, 1, CompiledCache(tmp_path))
        assert len(compiled) == 1

    def test_other_weights_precision_or_threads_are_compiled(
        self, frozen: FrozenFlow, compiled: list[bool], tmp_path: Path
    ) -> None:
        OpenVINOEngine.open(frozen, 2, tmp_path)
        others: list[tuple[FrozenFlow, int]] = [
            (freeze(glow(8, pixels="logit", scale=0.06), (1, 8, 8)), 2),
            (frozen.with_precision("bfloat16"), 2),
            (frozen, 1),
        ]
        for other, threads in others:
            compiled.clear()
            OpenVINOEngine.open(other, threads, tmp_path)
            assert compiled

    def test_damaged_files_are_made_again(
        self, frozen: FrozenFlow, compiled: list[bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        OpenVINOEngine.open(frozen, 2, tmp_path)
        blobs = sorted(tmp_path.glob("*.blob"))
        assert len(blobs) == 2
        whole = [blob.read_bytes() for blob in blobs]
        blobs[0].write_bytes(whole[0][:-1])
        blobs[1].write_bytes(whole[1][:100] + b"x" + whole[1][101:])
        compiled.clear()
        OpenVINOEngine.open(frozen, 2, tmp_path)
        assert len(compiled) == 2
        assert "damaged" in caplog.text

    def test_a_folder_that_cannot_be_written_costs_time_alone(
        self, frozen: FrozenFlow, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        engine = OpenVINOEngine.open(frozen, 1, tmp_path / "file")
        assert "cannot be" in caplog.text
        assert len(engine.forward(transformed(frozen, points(frozen, 3))).scales[0]) == 3

    def test_where_the_bits_differ_single_images_fill_a_tile(
        self, frozen: FrozenFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = CompiledGraph.run

        def off_by_a_bit(self: CompiledGraph, inputs: Any, outputs: Any, start: int, stop: int) -> None:
            run(self, inputs, outputs, start, stop)
            if self.micro_batch == 1 and len(self._requests) == 1:
                outputs[0][start:stop] = np.nextafter(outputs[0][start:stop], np.inf)

        monkeypatch.setattr(CompiledGraph, "run", off_by_a_bit)
        engine = OpenVINOEngine.open(frozen, 2, tmp_path)
        y = transformed(frozen, points(frozen, 9))
        np.testing.assert_array_equal(engine.forward(y[:1]).log_dets[0], engine.forward(y).log_dets[0][:1])

    def test_the_oldest_go_first(
        self, frozen: FrozenFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[bool]
    ) -> None:
        OpenVINOEngine.open(frozen, 1, tmp_path)
        monkeypatch.setattr("snf_models.scoring.cache.MAX_BYTES", 1)
        OpenVINOEngine.open(frozen, 2, tmp_path)
        assert not list(tmp_path.glob("*.blob"))

    def test_a_digest_tells_graphs_apart(self, frozen: FrozenFlow) -> None:
        digest = graph_digest(forward_graph(frozen, 4).model)
        assert graph_digest(forward_graph(frozen, 4).model) == digest
        assert graph_digest(forward_graph(frozen, 5).model) != digest
        assert graph_digest(forward_graph(frozen.with_precision("bfloat16"), 4).model) != digest
        (level,) = frozen.levels
        nudged = list(level.steps)
        index = next(i for i, step in enumerate(nudged) if isinstance(step, FrozenCoupling))
        coupling = nudged[index]
        bias = coupling.last[1].clone()
        bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))
        nudged[index] = replace(coupling, last=(coupling.last[0], bias))
        other = replace(frozen, levels=(replace(level, steps=tuple(nudged)),))
        assert graph_digest(forward_graph(other, 4).model) != digest


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with torch_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


@torch.no_grad()
def test_settled_pixels_map_as_before() -> None:
    flow: Flow = glow(8, pixels="marginal")
    x = dequantised(real_images(8, 8))
    settled = flow.pixels.settled()
    for got, want in zip(settled.map_with_slope(x), flow.pixels.map_with_slope(x), strict=True):
        assert torch.equal(got, want)
    flow.pixels.fit(255 - real_images(8, 8))
    assert not torch.equal(settled.map_with_slope(x)[0], flow.pixels.map_with_slope(x)[0]), "a copy, not a view"
