"""Tests of real processes: a package, so that their shared installation ends with the last of them."""
