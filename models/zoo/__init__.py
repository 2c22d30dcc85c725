"""The models that ship with the product, one folder each: ``<name>/1/`` is a complete artifact."""
