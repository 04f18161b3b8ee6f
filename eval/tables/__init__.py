"""Tables: of a run, of seeds, of sweeps, and the paper's."""
