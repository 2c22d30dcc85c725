"""The paper's tables and figures: recipes, plateaus, trainings that go on, exact gradients, files and the page."""

import doctest
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.paper import page, store, tables
from benchmarks.paper.angles import angles, exact_twin
from benchmarks.paper.exact_convolutions import WAYS, use_way
from benchmarks.paper.plan import PlanDiffers, make_plan
from benchmarks.paper.plateau import plateau_of
from benchmarks.paper.recipes import config_of
from benchmarks.paper.rows import CONVOLUTIONAL, DENSE, GROUPS, Group, Row
from benchmarks.paper.run import Run, Stopped, batches_of, frozen_nats, gap_of
from benchmarks.paper.turns import Options, train_group
from snf_models.bijections.convolution import SelfNormalizingConv
from snf_models.errors import FolderTaken
from snf_models.flows.architecture import ConvolutionalArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import walk
from snf_models.training.batches import Batches
from snf_models.training.optimizer import learning_rate_at
from snf_runtime.images.batch import stacked

STEPS = 6
FEW = {"batch_size": 8}
TINY = Group(
    "tiny",
    "glow",
    "mnist-mini",
    (Row("exact", "exact", "exact-glow-tiny", changes=FEW), Row("snf", "SNF", "snf-glow-tiny", changes=FEW)),
    reference="exact",
    epochs=250,
    validation_images=20,
    angle_images=4,
)


def never() -> bool:
    return False


def ignore(_step: int) -> None:
    pass


def tiny_run(work: Path, row: str = "snf", **changes: float) -> Run:
    return Run(TINY, TINY.row(row), "converged", 0, STEPS, work, test_images=10, **changes)


@pytest.mark.parametrize("name", ["growth", "plan", "plateau", "rows", "step_times"])
def test_examples_of_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.paper.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_published_recipe_is_that_of_the_paper() -> None:
    for group, rate in ((DENSE, 1e-4), (CONVOLUTIONAL, 1e-3)):
        for row in group.rows:
            few, many = (config_of(group, row, "published", steps, 0) for steps in (100, 50_000))
            assert few == many  # a larger budget goes on with the same training
            assert (few.learning_rate, few.batch_size, few.warmup_steps) == (rate, 100, 5000)
            assert (few.final_learning_rate, few.ema_decay) == (1.0, 0.0)
            assert learning_rate_at(few, 400_000, 0.9) == rate
            assert few.pixel_transform == "logit"
        assert config_of(group, group.row("snf"), "published", 100, 0).reconstruction_weight == 1


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
def test_the_converged_recipe_is_equal_for_all_rows_but_for_their_own_changes(group: Group) -> None:
    shared = [
        config_of(group, row, "converged", 1000, 0).model_dump(
            exclude={*(name for other in group.rows for name in other.changes), "reconstruction_weight"}
        )
        for row in group.rows
    ]
    assert all(settings == shared[0] for settings in shared)
    assert shared[0]["learning_rate"] > 0
    warmup = 500 if group.family == "glow" else 50
    assert (shared[0]["max_steps"], shared[0]["ema_decay"], shared[0]["warmup_steps"]) == (1000, 0.999, warmup)


@pytest.mark.parametrize(
    ("nats", "reached"),
    [
        (lambda _step, noise: 640 + 0.1 * noise, True),
        (lambda step, noise: 700 - 0.06 * step + 0.1 * noise, False),
        (lambda step, noise: 640 + 0.001 * step + 0.1 * noise, True),  # by less than a gain may be
        (lambda step, noise: 640 + 0.5 * step + 0.1 * noise, False),
        (lambda _step, noise: 640 + 20 * noise, False),  # too noisy to say
    ],
    ids=["flat", "falling", "hardly rising", "rising", "noisy"],
)
def test_plateaus(nats: Callable[[int, float], float], reached: bool) -> None:
    steps = list(range(25, 1001, 25))
    noise = np.random.default_rng(0).standard_normal(len(steps))
    found = plateau_of(steps, [nats(step, noise[place]) for place, step in enumerate(steps)])
    assert found.reached is reached
    assert found.points == 11


def test_a_row_past_its_best_says_so() -> None:
    steps = range(0, 1001, 50)
    found = plateau_of(steps, [max(700 - step / 10, 600 + step / 2) for step in steps])
    assert str(found).startswith("**past its best (step 150)**: the last quarter gained -125")


def test_the_gain_of_a_straight_line_and_of_too_few_points() -> None:
    line = plateau_of(range(0, 1001, 10), [1000 - 0.01 * step for step in range(0, 1001, 10)])
    assert line.gain == pytest.approx(2.5)
    assert line.error == pytest.approx(0, abs=1e-9)
    assert not line.reached
    assert not plateau_of([1, 2, 3], [640.0, 640.0, 640.0]).reached


def test_a_training_in_turns_and_after_a_stop_is_the_undisturbed_one(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole")
    whole.advance(STEPS, ignore, never)
    taken: list[int] = []
    stopped = tiny_run(tmp_path / "turns")
    stopped.advance(2, ignore, never)
    with pytest.raises(Stopped):
        tiny_run(tmp_path / "turns").advance(STEPS, taken.append, lambda: len(taken) == 2)
    again = tiny_run(tmp_path / "turns")
    again.advance(STEPS, taken.append, never)
    assert taken == list(range(3, STEPS + 1))
    assert [point.step for point in again.curve] == [2, STEPS]
    assert again.curve[-1].nats == whole.curve[-1].nats
    assert again.curve[-1].inverse_errors == whole.curve[-1].inverse_errors
    assert again.curve[-1].angles == whole.curve[-1].angles
    assert all(0 < degrees < 90 for degrees in again.curve[-1].angles)
    assert again.test().tolist() == whole.test().tolist()
    served = frozen_nats(again.flow_of_best(), stacked(again.dataset.test[:10]))
    assert np.abs(served - again.test()).max() < 1e-2


def test_a_folder_takes_no_other_settings(tmp_path: Path) -> None:
    tiny_run(tmp_path).advance(2, ignore, never)
    with pytest.raises(FolderTaken, match="learning_rate"):
        tiny_run(tmp_path, learning_rate=0.5)
    folder = tmp_path / "plan"
    assert make_plan(TINY, "converged", None, 20, folder, "cpu").steps == 20
    with pytest.raises(PlanDiffers, match="got 30 steps"):
        make_plan(TINY, "converged", None, 30, folder, "cpu")
    assert make_plan(TINY, "published", None, 30, folder, "cpu").steps == 30


def test_rows_are_compared_at_equal_steps_alone(tmp_path: Path) -> None:
    exact, learned = tiny_run(tmp_path, "exact"), tiny_run(tmp_path)
    exact.advance(3, ignore, never)
    learned.advance(2, ignore, never)
    assert gap_of(learned, exact) is None
    learned.advance(3, ignore, never)
    gap = gap_of(learned, exact)
    assert gap["best_steps"] == [learned.best_step, 3]
    with pytest.raises(PlanDiffers, match=r"has a training of 3 steps, .* expected at least 3, got 2"):
        make_plan(TINY, "published", None, 2, tmp_path, "cpu")


def test_a_group_is_trained_tested_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "tiny", TINY)
    results = tmp_path / "results"
    options = Options(tmp_path / "work", results, 0.002, None, (0,), "cpu", 1, test_images=20)
    train_group(TINY, "published", options)
    exact, learned = store.runs(results, "tiny")
    assert exact["planned_steps"] == learned["planned_steps"] == learned["curve"][-1]["step"]
    assert [point["step"] for point in exact["curve"]] == [point["step"] for point in learned["curve"]]
    assert learned["gap"]["nats"] == pytest.approx(learned["test"]["nats"] - exact["test"]["nats"], abs=0.1)
    assert len(learned["curve"][-1]["angles"]) == 8
    assert exact["gap"] is None
    lines = tables.likelihoods(results, ["tiny"], "")
    assert "none: **not at its plateau**" in lines[-1] or "none: too few points" in lines[-1]
    train_group(TINY, "published", options)  # everything is done: nothing changes
    assert store.runs(results, "tiny")[1]["curve"] == learned["curve"]


@pytest.fixture(scope="module")
def convolutional() -> tuple[ConvolutionalArchitecture, torch.Tensor]:
    architecture = ConvolutionalArchitecture(channels=1, height=8, width=8, blocks=2, layers=2)
    x = 256 * torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return architecture, x


def test_projected_inverses_make_the_gradient_of_a_flow_exact(
    convolutional: tuple[ConvolutionalArchitecture, torch.Tensor],
) -> None:
    architecture, x = convolutional
    torch.manual_seed(0)
    flow, twin = build_flow(architecture).double(), exact_twin(architecture)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=torch.float64))
    learned = angles(flow, twin, x)
    assert min(learned) > 0.01
    for _, steps, _ in walk(flow, (1, 8, 8)):
        for _, layer, shape in steps:
            if isinstance(layer, SelfNormalizingConv):
                layer.refresh_inverse(shape)
    assert max(angles(flow, twin, x)) < 1e-6


def test_all_ways_of_exact_convolutions_have_the_same_gradients(
    convolutional: tuple[ConvolutionalArchitecture, torch.Tensor],
) -> None:
    architecture, x = convolutional
    gradients = []
    for way in WAYS:
        torch.manual_seed(0)
        flow = build_flow(architecture.model_copy(update={"linear": "exact"})).double().train()
        use_way(flow, way)
        torch.autograd.backward(flow(x).log_likelihood.mean())
        gradients.append([parameter.grad for parameter in flow.parameters()])
    for of_dense, *others in zip(*gradients, strict=True):
        for other in others:
            torch.testing.assert_close(other, of_dense, rtol=1e-8, atol=1e-9)


def test_images_of_cifar_are_augmented() -> None:
    plain = Batches(np.zeros((4, 1, 8, 8), np.uint8), 4, 3)
    assert batches_of(plain, "mnist") is plain
    assert batches_of(plain, "cifar10") == replace(plain, augmentation="crop-flip")


def record_of(row: str, nats: float, steps: int = 1000, warmup: int = 0) -> store.Record:
    curve = [
        {
            "step": step,
            "seconds": step / 10,
            "nats": nats,
            "angles": [0.1, 0.3],
            "inverse_errors": [],
            "multipliers": [],
        }
        for step in range(50, steps + 1, 50)
    ]
    found = plateau_of([point["step"] for point in curve], [nats] * len(curve))
    return {
        **{"group": "dense", "row": row, "recipe": "published", "seed": 0, "dataset": "mnist", "dimensions": 784},
        **{"planned_steps": 1000, "steps_per_epoch": 500, "diverged": None, "curve": curve, "best_step": steps},
        "plateau": asdict(found),
        "config": {"warmup_steps": warmup},
        "test": {"nats": nats, "error": 1.4, "images": 10_000},
        "gap": None if row == "exact" else {"to": "exact", "nats": -0.5, "error": 0.25, "best_steps": [steps, 950]},
        "machine": {"cpu": "C", "cores": 2, "threads": 2, "versions": {"torch": "2"}, "load_before": 0.5},
    }


def test_tables_are_written_from_stored_results(tmp_path: Path) -> None:
    exact = record_of("exact", 947.6, warmup=1001)
    for record in (exact, record_of("snf", 947.1), record_of("relative", 1000.0, steps=500)):
        store.write_run(tmp_path, record)
    page.write(tmp_path)
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(tmp_path.glob("*.md")))
    assert "| SNF FC 2-Layer | 0 | published | 1000 (2 of 6000) | 2 min | 10000 | 947.1 ± 1.4 | 947.1 ± 0.2 |" in text
    assert "| 947.1 ± 0.2 | at its plateau: the last quarter gained" in text
    assert "nats; it ended inside the warm-up of 1001 steps |" in text
    assert "| none yet: 500 of 1000 steps |" in text
    assert "| SNF FC 2-Layer | published | 0 | 1000 | 1000 and 950 | -0.50 ± 0.25 nats | -0.05 % | -0.5 nats |" in text
    assert "| SNF FC 2-Layer | 1 | 947.1 | 1901.0 |" in text
    assert "Not measured yet: `python -m benchmarks.paper table3`." in text
    assert "C, 2 cores, 2 threads, torch 2" in text


def test_the_stored_tables_are_those_of_the_stored_results(tmp_path: Path) -> None:
    for path in store.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page.write(tmp_path)
    for path in tmp_path.glob("*.md"):
        stored = (store.RESULTS / path.name).read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == stored, "run python -m benchmarks.paper page"


def test_runs_are_stored_with_six_digits(tmp_path: Path) -> None:
    store.write_run(tmp_path, record_of("exact", 1 / 3))
    [path] = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["test"]["nats"] == 0.333333
