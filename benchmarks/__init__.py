"""Measurements behind every figure in the README; never part of the tests."""
