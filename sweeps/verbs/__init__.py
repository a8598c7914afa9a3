"""What the verbs of `sweep` do; `sweeps.cli` says how they are asked."""
