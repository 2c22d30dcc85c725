"""Detection limits: the smallest injected defects that a model finds in good images."""
