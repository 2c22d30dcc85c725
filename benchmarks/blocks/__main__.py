"""Trial of other blocks at equal time: ``SNF_DATA_DIR=... python -m benchmarks.blocks --models cifar10-snf-glow``.

Trains the recipe of a shipped model as it is, with spatial couplings, and with patch-causal blocks, each for the same
minutes, one after the other. Every second coupling is replaced, in the levels whose images have an even width. Prints
the bits/dim of validation images and writes them to ``results/blocks.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.blocks.patch_causal import PatchCausal
from benchmarks.blocks.spatial_coupling import SpatialCoupling
from benchmarks.needs import data_dir
from benchmarks.speed.machine import cores, describe
from benchmarks.speed.results import machine_line
from snf_models.bijections.coupling import AffineCoupling
from snf_models.bijections.pixels import MarginalPixels
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.loop import Trainer
from snf_models.training.batches import Batches
from snf_models.training.config import INITIALIZATION_IMAGES
from snf_models.zoo.__main__ import DATASETS, recipe_of
from snf_runtime.images.batch import stacked

RESULTS = Path(__file__).parents[1] / "results"
Block = type[SpatialCoupling | PatchCausal]
BLOCKS: dict[str, Block | None] = {
    "channel couplings alone": None,
    "every second one spatial": SpatialCoupling,
    "every second one patch-causal": PatchCausal,
}
WORTH = 0.1
"""Bits per dimension by which a block must be better to be worth its complexity."""


def replace_couplings(flow: Flow, block: Block, size: tuple[int, int]) -> int:
    """Put other blocks in place of every second coupling of a flow; return how many.

    Args:
        flow: The flow, which is changed.
        block: The type of the new blocks.
        size: Height and width of the images.
    """
    replaced = 0
    height, width = size
    for level in flow.level_list():
        height, width = (height // 2, width // 2) if level.squeeze is not None else (height, width)
        couplings = [number for number, step in enumerate(level.steps) if isinstance(step, AffineCoupling)]
        if width % 2:
            continue
        for turn, number in enumerate(couplings[1::2]):
            coupling = level.steps[number]
            assert isinstance(coupling, AffineCoupling)
            net = coupling.net
            level.steps[number] = block(
                coupling.channels,
                len(net.first.weight),
                (height, width),
                place=net.place is not None,
                swapped=turn % 2 == 1,
            )
            replaced += 1
    return replaced


def trial(name: str, dataset: Dataset, block: Block | None, minutes: float) -> dict[str, Any]:
    """Train a recipe with other blocks; return steps, blocks and bits/dim of validation images."""
    recipe = recipe_of(name)
    config = recipe.config({"max_minutes": minutes, "whitening": False, "validations": 1})
    architecture = recipe.architecture_for(dataset.image_shape, config)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    torch.manual_seed(config.seed)
    flow = build_flow(architecture)
    replaced = 0 if block is None else replace_couplings(flow, block, dataset.image_shape[1:])
    assert isinstance(flow.pixels, MarginalPixels)
    flow.pixels.fit(stacked(dataset.train))
    flow.initialize(Batches(dataset.train, INITIALIZATION_IMAGES, config.seed).batch(0), whiten=True)
    with tempfile.TemporaryDirectory(prefix="snf-blocks-") as folder:
        trainer = Trainer(dataset, architecture, config, Path(folder), _print_validation, start=flow)
        trainer.take_steps(lambda: False)
    return {"steps": trainer.state.step, "replaced": replaced, "bits_per_dim": trainer.state.best_bits_per_dim}


def _print_validation(event: dict[str, Any]) -> None:
    if event["event"] == "validation":
        print(f"step {event['step']}: {event['bits_per_dim']:.4f} bits/dim", flush=True)


def as_markdown(document: dict[str, Any]) -> str:
    """Return the tables for people."""
    lines = ["# Other blocks in place of every second coupling", "", machine_line(document["machine"])]
    for name, rows in document["models"].items():
        base = rows[next(iter(BLOCKS))]["bits_per_dim"]
        lines += [
            "",
            f"`{name}`, {document['minutes']:g} minutes each, validation images:",
            "",
            "| blocks | replaced | steps | bits/dim | better by |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {blocks} | {row['replaced']} | {row['steps']} | {row['bits_per_dim']:.4f} "
            f"| {base - row['bits_per_dim']:+.4f} |"
            for blocks, row in rows.items()
        ]
    return "\n".join([*lines, "", f"Worth the complexity: from {WORTH:g} bits/dim on.", ""])


def main() -> int:
    """Train, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blocks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=DATASETS, default=["cifar10-snf-glow"])
    parser.add_argument("--minutes", type=float, default=4.0, help="of each training (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    document: dict[str, Any] = {"machine": describe(arguments.threads), "minutes": arguments.minutes, "models": {}}
    for name in arguments.models:
        dataset = load_dataset(DATASETS[name], data_dir(DATASETS[name]))
        rows = document["models"].setdefault(name, {})
        for blocks, block in BLOCKS.items():
            print(f"{name}, {blocks}", flush=True)
            rows[blocks] = trial(name, dataset, block, arguments.minutes)
    text = as_markdown(document)
    write_atomically(arguments.out / "blocks.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(arguments.out / "blocks.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
