"""The training loop, its validations and its memory."""

import copy
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from snf_client.schemas.training import MAX_STEPS, TrainingConfig
from snf_models.artifacts.files import WEIGHTS
from snf_models.bijections.devices import find_device
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import sha256_file
from snf_models.errors import DatasetUnfit, DeviceNotFound, Interrupted, PresetNotFound
from snf_models.loading.trained import load_artifact
from snf_models.pipeline import loop as step_memory
from snf_models.pipeline import loop as validation
from snf_models.pipeline.architecture_file import parse_architecture
from snf_models.pipeline.loop import Trainer, trimmed_bits_per_dim, write_preview
from snf_models.pipeline.presets import PRESETS, find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import freeze
from snf_models.training.batches import Batches
from snf_models.training.optimizer import learning_rate_at, training_precision
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.scoring.pixel_density import content_noise
from tests.models.helpers import QUICK, glow, real_images
from tests.models.training.memory_process import SIDE
from tests.models.training.runs import Events, run, small_digits, train_whole, trainer_in
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT

DIGITS = load_dataset("mnist-mini", None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Events]:
    return run(tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="module")
def uninterrupted(whole: tuple[Trainer, Events]) -> Trainer:
    return whole[0]


@pytest.fixture(scope="module")
def stopped_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("stopped")
    run(folder, stop_at=2)
    run(folder, stop_at=4)
    return folder


def assert_same_run(got: Trainer, expected: Trainer) -> None:
    for part in ("flow", "averaged", "objective"):
        left, right = getattr(got, part).state_dict(), getattr(expected, part).state_dict()
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, equal_nan=True, msg=f"{part}.{name}")
    for mine, theirs in zip(got.flow.parameters(), expected.flow.parameters(), strict=True):
        moments = expected.optimizer.state[theirs]
        assert got.optimizer.state[mine].keys() == moments.keys()
        for name, value in moments.items():
            assert torch.equal(got.optimizer.state[mine][name], value), name
    assert (got.state.step, got.state.best_step) == (expected.state.step, expected.state.best_step)
    assert got.state.best_bits_per_dim == expected.state.best_bits_per_dim


@pytest.mark.parametrize("stops", [(1,), (2, 5)], ids=str)
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    stops: tuple[int, ...], uninterrupted: Trainer, tmp_path: Path
) -> None:
    for stop in stops:
        run(tmp_path, stop_at=stop)
    trainer, events = run(tmp_path)
    assert f"step {stops[-1]}" in events[0]["message"]
    assert_same_run(trainer, uninterrupted)


WITH_STATE: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon"},
    "geco": {"multiplier": "geco", "reconstruction_target": 1e-4, "noise_reconstruction": 0.1},
    "mdmm": {"multiplier": "mdmm", "reconstruction_target": 1e-4, "noise_reconstruction": 0.1},
    "suspects": {"suspect_share": 0.2},
    "augmented": {"augmentation": "crop-flip"},
    "whitened": {"whitening": True},
}


@pytest.mark.parametrize("settings", WITH_STATE.values(), ids=WITH_STATE)
def test_settings_with_a_state_of_their_own_survive_an_interruption(
    settings: dict[str, Any], uninterrupted: Trainer, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update=settings)
    whole, _ = run(tmp_path / "whole", config)
    run(tmp_path / "stopped", config, stop_at=3)
    resumed, events = run(tmp_path / "stopped", config)
    assert "step 3" in events[0]["message"]
    assert_same_run(resumed, whole)
    if "multiplier" in settings:
        start = trainer_in(tmp_path / "start", config)[0].objective.multiplier.values()
        assert not torch.equal(whole.objective.multiplier.values(), start)
    weights, other = whole.flow.state_dict(), uninterrupted.flow.state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in weights.items()), "the settings have an effect"


@pytest.mark.parametrize("budget", [{}, {"max_minutes": 60.0}], ids=["steps", "minutes"])
def test_a_finished_run_keeps_its_averaged_weights_alone_and_takes_no_step_again(
    budget: dict[str, float], uninterrupted: Trainer, tmp_path: Path
) -> None:
    run(tmp_path, stop_at=QUICK.max_steps)
    last = tmp_path / "checkpoints" / f"step-{QUICK.max_steps:08d}"
    assert {file.name for file in last.iterdir()} == {"averaged.safetensors", "state.json"}
    config = QUICK.model_copy(update=budget)
    document = json.loads((last / "state.json").read_text())
    document["state"]["config_digest"] = trainer_in(tmp_path / "other", config)[0].state.config_digest
    (last / "state.json").write_text(json.dumps(document))
    trainer, events = trainer_in(tmp_path, config)
    trained = trainer.run(lambda: False)
    assert (trainer.state.step, trained.step) == (QUICK.max_steps, QUICK.max_steps)
    assert not {"metrics", "validation", "checkpoint"} & {event["event"] for event in events}
    assert trainer.schedule.fraction(trainer.state) > 0
    expected = uninterrupted.averaged.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained.flow.state_dict().items())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x40
    path.write_bytes(content)


def _without_digests(folder: Path) -> None:
    document = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(document | {"sha256": {}}))


def _another_step(folder: Path) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped weights": lambda folder: flip(folder / "weights.safetensors"),
    "flipped averages": lambda folder: flip(folder / "averaged.safetensors"),
    "optimizer missing": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "weights emptied": lambda folder: (folder / "weights.safetensors").write_bytes(b""),
    "state missing": lambda folder: (folder / "state.json").unlink(),
    "state cut off": lambda folder: (folder / "state.json").write_text('{"state": {'),
    "state of another kind": lambda folder: (folder / "state.json").write_text("[]"),
    "state without digests": _without_digests,
    "state of another step": _another_step,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_ends_alike(
    damage: Callable[[Path], object], stopped_twice: Path, uninterrupted: Trainer, tmp_path: Path
) -> None:
    shutil.copytree(stopped_twice, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoints" / "step-00000004")
    trainer, events = run(tmp_path)
    assert "step 2" in events[0]["message"]
    assert_same_run(trainer, uninterrupted)


def test_a_damaged_checkpoint_never_stands_for_a_sound_one(uninterrupted: Trainer, tmp_path: Path) -> None:
    """The last step's checkpoint is the best one, too: what it holds is what becomes the model."""
    assert uninterrupted.state.best_step == QUICK.max_steps
    run(tmp_path, stop_at=QUICK.max_steps)
    last = tmp_path / "checkpoints" / f"step-{QUICK.max_steps:08d}"
    flip(last / "averaged.safetensors")
    trainer, _ = run(tmp_path)
    assert_same_run(trainer, uninterrupted)
    expected = json.loads((last / "state.json").read_text())["sha256"]["averaged.safetensors"]
    assert sha256_file(last / "averaged.safetensors") == expected


def test_checkpoints_of_another_configuration_are_no_start_and_no_obstacle(
    uninterrupted: Trainer, tmp_path: Path
) -> None:
    run(tmp_path, config=QUICK.model_copy(update={"seed": 7}))
    trainer, events = run(tmp_path)
    assert not any("resumes" in event.get("message", "") for event in events)
    assert_same_run(trainer, uninterrupted)


def test_a_run_that_only_other_configurations_have_checkpointed_keeps_its_own(tmp_path: Path) -> None:
    run(tmp_path, config=QUICK.model_copy(update={"seed": 7}))
    run(tmp_path, stop_at=2)
    _, events = trainer_in(tmp_path)
    assert "step 2" in events[0]["message"]


def test_old_checkpoints_are_dropped_but_for_the_best(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"max_steps": 8, "validations": 8, "checkpoint_seconds": 1e-6})
    trainer, events = run(tmp_path, config=config)
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").glob("step-*")}
    assert kept == {7, 8, trainer.state.best_step}
    assert len([event for event in events if event["event"] == "checkpoint"]) == 8


def test_whole_run_interrupted_and_called_again_makes_the_same_weights(tmp_path: Path) -> None:
    """Of two levels; by an engine that compiles nothing."""
    steps = iter([False, False, True])
    cache = tmp_path / "cache"
    uninterrupted, _ = trainer_in(tmp_path / "uninterrupted", side=16)
    expected = uninterrupted.run(lambda: False).flow.state_dict()

    def call(should_stop: Callable[[], bool]) -> Path:
        return train(
            small_digits(16),
            "snf-glow-tiny",
            QUICK,
            tmp_path,
            observe=lambda _event: None,
            should_stop=should_stop,
            engine=EngineOptions("torch", threads=1, cache=cache),
        )

    with pytest.raises(Interrupted):
        call(lambda: next(steps))
    assert not (tmp_path / "artifact").exists()
    path = call(lambda: False)
    weights = load_file(path / WEIGHTS)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert not list(cache.glob("*"))
    before = (path / "manifest.json").stat().st_mtime_ns
    assert call(lambda: True) == path, "a finished run is not run again"
    assert (path / "manifest.json").stat().st_mtime_ns == before


def test_what_a_run_reports(whole: tuple[Trainer, Events]) -> None:
    trainer, events = whole
    metrics = [event for event in events if event["event"] == "metrics"]
    assert metrics[0]["step"] == 1
    assert metrics[0]["steps"] == QUICK.max_steps
    keys = {"progress", "epoch", "images_per_second", "bits_per_dim", "reconstruction_error", "learning_rate"}
    assert keys | {"eta_seconds"} <= metrics[0].keys()
    [validation] = [event for event in events if event["event"] == "validation"]
    assert validation["step"] == 6
    assert len(validation["inverse_errors"]) == len(validation["inverse_error_bounds"]) > 0
    assert events[0] == {"event": "started", "step": 0, "steps": QUICK.max_steps}
    assert [event["event"] for event in events].count("started") == 1
    assert trainer.state.step == QUICK.max_steps
    assert {"event": "samples", "step": 6, "file": "samples/step-00000006.png"} in events
    assert (trainer.samples / "step-00000006.png").is_file()


def test_minutes_alone_decide_where_they_are_given() -> None:
    for name in ("snf-glow-tiny", "snf-conv-9l"):
        preset = find_preset(name)
        assert preset.config({"max_minutes": 30}).max_steps == MAX_STEPS
        assert preset.config({"max_minutes": 30, "max_steps": 500}).max_steps == 500
        assert preset.config({"max_minutes": None}).max_steps == preset.config({}).max_steps < MAX_STEPS
    assert TrainingConfig(max_minutes=30).max_steps == MAX_STEPS
    file = parse_architecture({"family": "glow", "levels": 2, "training": {"max_minutes": 30}})
    assert file.config({}).max_steps == file.config({"max_minutes": 5}).max_steps == MAX_STEPS
    assert file.config({"max_steps": 500}).max_steps == 500
    assert file.config({"max_minutes": None}).max_steps < MAX_STEPS


def test_steps_are_expected_from_the_time_used(tmp_path: Path) -> None:
    """A budget of a second: the steps told approach those that it has in the end."""
    config = find_preset("snf-glow-tiny").config(
        {"max_minutes": 1 / 60, "validations": 1, "batch_size": 32, "validation_images": 20, "precision": "float32"}
    )
    trainer, events = trainer_in(tmp_path, config)
    trained = trainer.run(lambda: False)
    metrics = [event for event in events if event["event"] == "metrics"]
    assert metrics[-1]["step"] == metrics[-1]["steps"] == trained.step < 2000
    assert metrics[-1]["progress"] == 1
    assert all(event["step"] <= event["steps"] for event in metrics)


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = QUICK.model_copy(update={"warmup_steps": 3, "learning_rate": 0.01, "final_learning_rate": 0.1})
    rates = [learning_rate_at(config, step, 0.0) for step in range(5)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert learning_rate_at(config, 10, 0.5) == pytest.approx(0.01 * (0.1 + 0.9 / 2))
    assert learning_rate_at(config, 10, 1.0) == pytest.approx(0.001)


def test_a_thread_prepares_the_batches_of_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trainer_in(tmp_path)
    trainer.state = replace(trainer.state, step=5)
    batches = trainer.batches
    threads = []
    batch_of = Batches.batch

    def batch(self: Batches, step: int) -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return batch_of(self, step)

    monkeypatch.setattr(Batches, "batch", batch)
    monkeypatch.setattr("snf_models.pipeline.loop.send", lambda tensor, device: (tensor, device))
    trainer.device = torch.device("cuda")
    ahead = trainer._batches()
    for step in (5, 6, 7):
        tensor, device = next(ahead)
        assert device.type == "cuda"
        assert torch.equal(tensor, batch_of(batches, step))
    ahead.close()
    assert {name.startswith("prefetch") for name in threads} == {True}
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    trainer.device = torch.device("cpu")
    assert torch.equal(next(trainer._batches()), batch_of(batches, 5))
    assert threads[-1] == threading.current_thread().name


def test_batches_are_functions_of_seed_and_step() -> None:
    batches, again, other = (Batches(DIGITS.train, 32, seed) for seed in (3, 3, 4))
    assert torch.equal(batches.batch(17), again.batch(17))
    assert not torch.equal(batches.batch(17), other.batch(17))
    epoch = np.concatenate([batches.batch(step).numpy() for step in range(batches.steps_per_epoch)])
    pixels = np.floor(epoch).astype(np.uint8)
    assert ((epoch >= 0) & (epoch < 256)).all()
    noise = epoch - pixels
    assert abs(noise.mean() - 0.5) < 0.01
    known = {image.tobytes() for image in DIGITS.train}
    seen = [image.tobytes() for image in pixels]
    assert set(seen) <= known
    assert len(set(seen)) == len(seen) == 32 * 12, "an epoch shows no image twice"


def test_unknown_presets_and_unfit_images_are_refused(tmp_path: Path) -> None:
    def call(preset: str, dataset: Dataset) -> None:
        train_whole(dataset, preset, QUICK, tmp_path)

    with pytest.raises(PresetNotFound, match="no preset 'snf-glow-huge'; did you mean snf-glow-medium"):
        call("snf-glow-huge", DIGITS)
    odd = DIGITS.train[:, :, :27, :]
    with pytest.raises(DatasetUnfit, match="halves both sides 1 times: expected multiples of 2, at least 8, got 27x28"):
        call("snf-glow-tiny", Dataset("odd", odd, odd, odd, odd, "digest"))


def test_settings_outside_their_bounds_are_refused() -> None:
    for wrong in ({"batch_size": 1}, {"learning_rate": 0}, {"max_steps": 0}, {"unknown": 1}, {"precision": "float16"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TrainingConfig.model_validate(wrong)


def test_the_record_says_how_the_model_came_to_be(artifact: Path) -> None:
    training = load_artifact(artifact).manifest.training
    assert training.config == QUICK.model_dump(include=set(find_preset("snf-glow-tiny").parameters))
    assert (training.dataset, training.dataset_digest) == ("mnist-mini", DIGITS.digest)
    assert (training.steps, training.train_images) == (6, len(DIGITS.train))
    assert training.precision == training_precision(QUICK) == "float32"


def test_a_folder_can_be_moved_between_calls(uninterrupted: Trainer, tmp_path: Path) -> None:
    run(tmp_path / "here", stop_at=3)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_same_run(run(tmp_path / "there")[0], uninterrupted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_cuda_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFound, match="PyTorch finds none on this machine") as refused:
        train_whole(DIGITS, "snf-glow-tiny", QUICK, tmp_path, device="cuda")
    assert refused.value.slug == "device-not-found"
    assert not list(tmp_path.iterdir())


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceNotFound, match="expected device cpu, cuda or cuda:N, got 'tpu'"):
        find_device("tpu")


def test_the_engine_is_the_one_asked_for_and_a_service_finds_what_it_compiled(tmp_path: Path) -> None:
    def files() -> set[str]:
        return {path.name for path in (tmp_path / "cache").glob("*")}

    options = EngineOptions("openvino", threads=1, cache=tmp_path / "cache")
    artifact = train_whole(
        small_digits(), "snf-glow-tiny", QUICK.model_copy(update={"max_steps": 1}), tmp_path / "run", engine=options
    )
    compiled = files()
    assert len([name for name in compiled if name.endswith(".blob")]) == 4, "forward and inverse: single images, tiles"
    scorer = load_model(artifact, options=options)
    scorer.sample(2)
    assert scorer.density.engine_name == "openvino"
    assert {name for name in files() - compiled if not name.endswith(".density")} == set(), "it compiles nothing"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("preset", ["snf-glow-tiny", "exact-fc-2l", "snf-conv-9l", "exponential-conv-9l"])
def test_a_run_begun_on_the_cpu_goes_on_and_ends_on_cuda(preset: str, tmp_path: Path) -> None:
    steps = iter([False, False, True])

    def call(device: str, should_stop: Callable[[], bool]) -> Path:
        return train(
            DIGITS, preset, QUICK, tmp_path, observe=lambda _event: None, should_stop=should_stop, device=device
        )

    with pytest.raises(Interrupted):
        call("cpu", lambda: next(steps))
    assert load_artifact(call("cuda", lambda: False)).manifest.training.steps == QUICK.max_steps


SHAPE = (1, 16, 16)


def test_validation_is_the_mean_of_the_exact_likelihood_and_repeats() -> None:
    flow, images = glow(16), real_images(130, 16)
    frozen = freeze(flow, SHAPE)
    bits = trimmed_bits_per_dim(frozen, images, 0.0)[0]
    assert bits == trimmed_bits_per_dim(frozen, images, 0.0)[0]
    halves = [trimmed_bits_per_dim(frozen, part, 0.0)[0] for part in (images[:65], images[65:])]
    assert bits == pytest.approx(sum(halves) / 2, abs=1e-6)
    noisy = torch.from_numpy(images + np.concatenate([content_noise(image, "validation") for image in images]))
    with torch.no_grad():
        exact = copy.deepcopy(flow).double()(noisy).log_likelihood.mean()
    assert bits == pytest.approx(-float(exact) / (256 * math.log(2)), abs=1e-6)


def test_the_last_preview_shows_what_the_model_draws(artifact: Path, scorer: Scorer) -> None:
    """The artifact's run has one validation, at its end: weights, latents and inverse are the same."""
    preview = artifact.parent / "samples" / f"step-{QUICK.max_steps:08d}.png"
    drawn = encode_png(
        image_grid(scorer.sample(validation.PREVIEW_SAMPLES, seed=validation.PREVIEW_SEED, inverse="learned"))
    )
    # Engines differ in the last bits of float32, and so a value at the edge of a pixel bin falls to either side.
    shown, expected = (np.asarray(Image.open(io.BytesIO(png)), dtype=int) for png in (preview.read_bytes(), drawn))
    difference = np.abs(shown - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_flows_without_a_learned_inverse_are_inverted_exactly(tmp_path: Path) -> None:
    path = write_preview(freeze(glow(16, linear="exact"), SHAPE), tmp_path, 123)
    assert path == tmp_path / "step-00000123.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_random_state_moves(tmp_path: Path) -> None:
    flow = freeze(glow(16), SHAPE)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = write_preview(flow, tmp_path / "first", 1).read_bytes()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert write_preview(flow, tmp_path / "second", 1).read_bytes() == first


def test_the_last_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "PREVIEWS_KEPT", 2)
    flow = freeze(glow(16), SHAPE)
    for step in (900, 1, 2, 3):
        write_preview(flow, tmp_path, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000002.png", "step-00000003.png"], "that of step 900 was another run's"


def test_values_that_are_not_finite_are_no_picture(tmp_path: Path) -> None:
    flow = glow(16)
    with torch.no_grad():
        flow.get_parameter("levels.1.steps.2.net.last.bias").fill_(float("nan"))
    with pytest.raises(ValueError, match="the learned inverse gave values that are not finite"):
        write_preview(freeze(flow, SHAPE), tmp_path, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [torch.linalg.LinAlgError("singular"), OSError(28, "No space left", "/secret/path")])
def test_a_preview_that_fails_ends_no_run(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> Path:
        raise error

    monkeypatch.setattr("snf_models.pipeline.loop.write_preview", fail)
    images = real_images(60, 16)
    dataset = Dataset("digits-16", images[:40], images[40:], images[40:], images[40:], "digest")
    config = QUICK.model_copy(update={"max_steps": 1})
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: list[dict[str, Any]] = []
    trained = Trainer(dataset, architecture, config, tmp_path, events.append).run(lambda: False)
    assert trained.step == 1
    (message,) = (event["message"] for event in events if event["event"] == "log")
    assert message in {"no samples of step 1: singular", "no samples of step 1: No space left"}
    assert not any(event["event"] == "samples" for event in events)


NEEDS_GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ, reason="needs glibc, whose allocation is tuned"
)

BLOCK = 40 * 2**20
"""Bytes that glibc would map anew each time."""
BLOCKS = f"""
import resource
import numpy as np
from snf_models.pipeline.loop import kept_memory, release_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def cost():
    before = faults()
    np.ones({BLOCK}, dtype=np.uint8)
    return faults() - before

usual = [cost() for _ in range(3)]
with kept_memory():
    kept = [cost() for _ in range(3)]
held = resident()
release_memory()
print(usual[-1], kept[-1], held - resident(), cost())
"""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in step_memory.VARIABLES}
    return kept | {"PYTHONPATH": IMPORT_PATH}


def of_blocks(**variables: str) -> list[int]:
    """Return the numbers that a new process prints: glibc reads its variables at the start."""
    command = [sys.executable, "-c", BLOCKS]
    given = environment() | {"NUMPY_MADVISE_HUGEPAGE": "0"} | variables  # a huge page is one fault
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=given, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return [int(number) for number in answer.stdout.split()]


@NEEDS_GLIBC
@pytest.mark.usefixtures("unmeasured_processes")
def test_memory_is_kept_for_the_next_block_and_given_back_when_it_is_released() -> None:
    usual, kept, given_back, after = of_blocks()
    assert kept < usual / 2, "the pages are those of the block before"
    assert given_back > 0.9 * BLOCK
    assert after > 0.9 * usual, "as it was before"


@NEEDS_GLIBC
@pytest.mark.usefixtures("unmeasured_processes")
def test_steps_of_a_training_use_the_memory_of_earlier_ones_which_it_gives_back(tmp_path: Path) -> None:
    """It holds two matrices with an average, a gradient and two moments each; one step may need a new block."""
    command = [sys.executable, "-m", "tests.models.training.memory_process"]
    with (tmp_path / "printed").open("wb") as output:
        process = fork_server().popen(command, stdout=output, env=environment(), cwd=ROOT)
    code, printed = process.wait(120), (tmp_path / "printed").read_text()
    assert code == 0, printed
    in_a_step, left = map(int, printed.split())
    matrix = 4 * SIDE**2
    assert in_a_step < matrix / os.sysconf("SC_PAGESIZE")
    assert left < 4 * matrix


@NEEDS_GLIBC
def test_settings_of_the_environment_are_left_as_they_are() -> None:
    usual, kept, *_ = of_blocks(MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == usual
