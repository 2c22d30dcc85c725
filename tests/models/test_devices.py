"""A training step stays on its device and never waits for it. Without a GPU, torch's meta device stands for one.

Meta tensors have a place, a shape and no values; an operation on one of them and a tensor of the CPU raises, and so
does any attempt to read a number.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import snf_models.pipeline.loop
import snf_models.training.objective
from snf_client.schemas.training import TrainingConfig
from snf_models.flows.architecture import (
    ConvolutionalArchitecture,
    LayeredArchitecture,
    LevelSpec,
    PixelArchitecture,
)
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS, find_preset
from snf_models.training.optimizer import coupling_kernels
from tests.models.training.runs import small_digits, trainer_in
from tests.support.waiting import NoWaiting, ValuesAreOne

SHAPE = (1, 16, 16)
NAMES = sorted(name for name, preset in PRESETS.items() if preset.family not in ("features", "hybrid"))
OPTIONS: dict[str, Any] = {
    **{"noise_reconstruction": 1.0, "symmetric_reconstruction": True, "gradient": "newton-schulz"},
    **{"multiplier": "geco", "suspect_share": 0.1, "warmup_steps": 0},
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    *((name, OPTIONS) for name in ("snf-glow-tiny", "snf-fc-2l", "snf-conv-9l")),
    ("snf-glow-tiny", {"multiplier": "mdmm", "precision": "float32"}),
]
OTHER_LAYERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("lu-1x1", "periodic-convolution", "woodbury", "self-normalizing-local-affine")),
    {"type": "place-coupling", "width": 8},
]


def small(name: str, config: TrainingConfig) -> PixelArchitecture:
    """Return the architecture of a preset for small images: two levels or blocks of a narrow step or convolution."""
    preset = find_preset(name)
    levels = None if preset.levels is None else min(preset.levels, 2)
    narrow = replace(preset, levels=levels, steps=min(preset.steps, 1), width=min(preset.width, 16))
    architecture = narrow.architecture(SHAPE, config.pixel_transform)
    if isinstance(architecture, ConvolutionalArchitecture):
        return architecture.model_copy(update={"blocks": 2, "layers": 1})
    return architecture


def different_cases() -> Iterator[Any]:
    """Yield architecture and configuration of every case; those of some presets differ in numbers alone.

    A step may take another way where a number is zero.
    """
    seen = set()
    for name, options in CASES:
        config = find_preset(name).config({**options, "batch_size": 8})
        architecture = small(name, config)
        settings = config.model_dump().items()
        kinds = [(name, bool(value) if isinstance(value, int | float) else value) for name, value in settings]
        case = architecture.model_dump_json(), repr(kinds)
        if case not in seen:
            seen.add(case)
            yield pytest.param(architecture, config, id=f"{name}-{'-'.join(options)}")


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training take the meta device."""
    monkeypatch.setattr(snf_models.pipeline.loop, "find_device", torch.device)
    # Noise comes from the CPU, by a copy for which a GPU is not waited for.
    sent = lambda noise, device: torch.empty(noise.shape, dtype=noise.dtype, device=device)  # noqa: E731
    monkeypatch.setattr(snf_models.training.objective, "send", sent)
    # The optimiser has a fused kernel for it, too, and does not know that.
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *_, **__: None)


def take_steps(folder: Path, architecture: PixelArchitecture, config: TrainingConfig) -> Trainer:
    """Take whole steps on the meta device: gradients, clipping, optimiser, multipliers, average."""
    batch: Tensor = torch.empty(8, *SHAPE, dtype=torch.float64, device="meta")
    with ValuesAreOne():  # the start may wait
        trainer = Trainer(small_digits(SHAPE[-1]), architecture, config, folder, lambda _event: None, "meta")
        trainer._step(batch, 0, 0.5)  # brings constants to the device
    with NoWaiting():
        trainer._step(batch, 1, 0.5)
    return trainer


@pytest.mark.usefixtures("on_meta")
class TestSteps:
    @pytest.mark.parametrize(("architecture", "config"), different_cases())
    def test_of_a_preset(self, architecture: PixelArchitecture, config: TrainingConfig, tmp_path: Path) -> None:
        trainer = take_steps(tmp_path, architecture, config)
        everything = [tensor for module in trainer.modules.values() for tensor in module.state_dict().values()]
        moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
        assert {tensor.device.type for tensor in [*everything, *moments]} == {"meta"}
        # Adam has two moments and a count a parameter, Muon one momentum a kernel.
        kernels = len(coupling_kernels(trainer.flow)) if config.optimizer == "muon" else 0
        assert len(moments) == 3 * len(list(trainer.flow.parameters())) - 2 * kernels

    @pytest.mark.parametrize("options", [{}, OPTIONS])
    def test_of_inverses_of_two_layers(self, options: dict[str, Any], tmp_path: Path) -> None:
        architecture = ConvolutionalArchitecture(
            channels=1, height=16, width=16, blocks=2, layers=1, linear="self-normalizing-two-layer"
        )
        take_steps(tmp_path, architecture, find_preset("snf-conv-9l").config({**options, "batch_size": 8}))

    @pytest.mark.parametrize("layer", OTHER_LAYERS, ids=lambda layer: layer["type"])
    def test_of_layers_that_no_preset_has(self, layer: dict[str, Any], tmp_path: Path) -> None:
        levels = (LevelSpec.model_validate({"steps": [layer]}),)
        architecture = LayeredArchitecture(channels=1, height=16, width=16, pixel_transform="marginal", levels=levels)
        take_steps(tmp_path, architecture, TrainingConfig(batch_size=8))

    def test_a_wait_would_be_seen(self, tmp_path: Path) -> None:
        """Inverses that are recomputed check that their matrices are regular."""
        config = TrainingConfig(batch_size=8, recompute=True)
        with pytest.raises(AssertionError, match=r"_linalg_check_errors.* waits"):
            take_steps(tmp_path, small("snf-glow-tiny", config), config)

    def test_a_tensor_left_behind_would_be_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = TrainingConfig(batch_size=8)
        monkeypatch.setattr(snf_models.training.objective.SelfNormalizingObjective, "to", lambda self, _device: self)
        with pytest.raises((RuntimeError, AssertionError), match=r"device|brings together"):
            take_steps(tmp_path, small("snf-glow-tiny", config), config)


def test_between_reports_a_training_reads_two_numbers_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is applied and the norm of its gradient; and these on a CPU only, where they are there at once."""
    trainer, events = trainer_in(tmp_path, TrainingConfig(max_steps=5, batch_size=8, validations=1))
    reads: list[str] = []
    inside: list[Any] = []

    class Reads(NoWaiting):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "_local_scalar_dense" in str(func) and not inside:
                reads.append("a number")
            return func(*args, **(kwargs or {}))

    for name in ("_report", "_was_applied", "_validate"):
        original = getattr(trainer, name)

        def reading(*arguments: Any, _original: Any = original, **options: Any) -> Any:
            inside.append(_original)
            try:
                return _original(*arguments, **options)
            finally:
                inside.pop()

        monkeypatch.setattr(trainer, name, reading)
    monkeypatch.setattr(trainer.log_dets, "start", lambda _flow: None)
    with Reads():
        trainer.take_steps(lambda: False)
    assert (len(reads), trainer.state.step) == (10, 5)
    assert events[-1]["event"] == "samples"
