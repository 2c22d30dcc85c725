"""The error text for a false-alarm rate that is too small for the number of calibration images."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal

DIGITS = 4
"""Significant digits of the smallest attainable rate."""


def unattainable(alpha: float, images: int) -> str:
    """Return the error text for a rate below 1 / (n + 1), with that rounded up: rounded down it would be refused.

    >>> unattainable(0.001, 49).partition(": ")[2]
    'with 49 calibration images the smallest attainable is 0.02 (1/(49 + 1), rounded up)'
    """
    exact = Context(prec=DIGITS, rounding=ROUND_CEILING).divide(Decimal(1), Decimal(images + 1))
    return (
        f"alpha = {alpha:g} is not attainable: with {images} calibration images the smallest attainable is "
        f"{exact.normalize():f} (1/({images} + 1), rounded up)"
    )
