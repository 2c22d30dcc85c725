"""Complete trainings: from a dataset and a recipe to the folder of a model."""
