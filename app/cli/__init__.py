"""The commands of `snf`; heavy imports stay inside them so that `--help` is instant."""
