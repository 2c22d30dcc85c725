"""Fixtures that all tests here share."""

from tests.support.artifact import artifact, copy, scorer

__all__ = ["artifact", "copy", "scorer"]
