"""From the folder of a model to a model in memory: verification, trained flows, and opening for scoring."""
