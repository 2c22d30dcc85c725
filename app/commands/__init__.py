"""The commands of `snf`, one group a file; heavy imports stay inside the commands so that `--help` is instant."""
