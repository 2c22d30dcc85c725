"""Texts for people that several parts share."""
