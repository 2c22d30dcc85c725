"""The models that ship with the product. ``<name>/1/`` is the artifact of each."""
