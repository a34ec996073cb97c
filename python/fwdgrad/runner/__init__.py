"""Running a plan: the loop over samples, its memory, and checkpoints to go on from."""
