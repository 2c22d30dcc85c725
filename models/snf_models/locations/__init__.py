"""Locations: files in object stores such as S3, and in folders of this machine, under one interface."""
