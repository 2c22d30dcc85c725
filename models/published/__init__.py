"""Import of models that were trained with the code which Keller et al. published."""
