"""The nine-layer convolutional flow: ours against its authors' structure, and what stored log-dets save."""

from __future__ import annotations

import copy

import numpy as np
import torch

from benchmarks.speed.authors import PlainFlow
from benchmarks.speed.context import Context
from benchmarks.speed.ours import Ours, random_flow
from benchmarks.speed.pairing import Target, in_turns, ratio, timed
from snf_models.scoring.frozen import constant_log_dets, freeze
from snf_runtime.scoring.likelihood import score_images

PRESET, SHAPE, IMAGES = "snf-conv-9l", (1, 28, 28), 100
COLOUR = (3, 32, 32)
AGREEMENT = 0.05


def plain_twin(ours: Ours) -> PlainFlow:
    """Return the authors' structure with the weights of ours."""
    return PlainFlow(ours.flow, constant_log_dets(ours.flow, ours.frozen.image_shape)).eval()


def differences(ours: Ours, plain: PlainFlow) -> tuple[float, float]:
    """Return the largest differences of log-likelihoods, in nats, from the structure in float64 and in float32."""
    found = score_images(ours.density, ours.images)
    mine = torch.tensor([one.log_likelihood for one in found], dtype=torch.float64)
    with torch.inference_mode():
        single = plain.log_likelihood(ours.dequantised.float()).double()
        double = copy.deepcopy(plain).double().log_likelihood(ours.dequantised)
    return float((mine - double).abs().max()), float((mine - single).abs().max())


def against_authors(context: Context) -> None:
    """Measure scoring against the authors' structure."""
    if not context.wants("conv/authors"):
        return
    ours = Ours.build(PRESET, SHAPE, IMAGES, context.threads)
    assert ours is not None
    plain = plain_twin(ours)
    what = f"{PRESET} {'x'.join(map(str, SHAPE))}, {IMAGES} images: ours / the authors' structure, rebuilt plainly"
    apart, rounded = differences(ours, plain)
    if not apart <= AGREEMENT:
        context.failed("conv/authors", what, f"the two differ by {apart:.3g} nats: no comparison", Target(low=4))
        return
    x = ours.dequantised.float()

    @torch.inference_mode()
    def authors() -> None:
        plain.log_likelihood(x)

    seconds = in_turns({"ours": ours.score(), "authors": timed(authors)}, context.rounds)
    context.record(
        "conv/authors",
        what,
        ratio(seconds["authors"], seconds["ours"]),
        Target(low=4),
        **{
            "largest difference from the same structure in float64, nats": apart,
            "largest difference from it in float32, as it is timed, nats": rounded,
            "ms an image, median": {side: 1e3 * float(np.median(took)) / IMAGES for side, took in seconds.items()},
            "engine of ours": ours.describe(),
            "theirs": "eager PyTorch, float32, one batch, cached log-dets",
        },
    )


def stored_log_dets(context: Context) -> None:
    """Measure freezing with stored log-dets against computing them."""
    if not context.wants("conv/log-dets"):
        return
    flow = random_flow(PRESET, COLOUR)
    log_dets = constant_log_dets(flow, COLOUR)
    stored = timed(lambda: freeze(flow, COLOUR, log_dets), 3)
    computed = timed(lambda: freeze(flow, COLOUR, constant_log_dets(flow, COLOUR)))
    seconds = in_turns({"stored": stored, "computed": computed}, context.rounds)
    context.record(
        "conv/log-dets",
        f"{PRESET} {'x'.join(map(str, COLOUR))}: freezing with stored log-dets / computing them and freezing",
        ratio(seconds["stored"], seconds["computed"]),
        Target(high=0.05),
        **{
            "compared": "freeze(flow, shape, log_dets) and freeze(flow, shape, constant_log_dets(flow, shape)), of a "
            "flow in memory; reading its file costs both the same",
            "ms, median": {side: 1e3 * float(np.median(took)) for side, took in seconds.items()},
        },
    )
