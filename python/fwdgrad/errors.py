"""What can go wrong that is not a wrong argument."""


class ModelError(RuntimeError):
    """The model failed, or returned something that no score can be made of."""


class CheckpointError(RuntimeError):
    """A checkpoint is of another run, or damaged."""
