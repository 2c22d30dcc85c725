"""Artifacts: trained models as folders of files that never change once written."""
