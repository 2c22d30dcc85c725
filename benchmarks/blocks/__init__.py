"""Trial of other blocks in place of every second coupling of a shipped model's first levels, at equal time."""
