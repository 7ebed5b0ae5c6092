"""How a training ends early. Each error has a stable code and the exit code of the program."""

EXIT_BAD_SPEC = 64
EXIT_BAD_INPUT = 65
EXIT_FAILED = 70
EXIT_STOPPED = 75


class TrainingError(Exception):
    """Root of what the trainer reports; `retryable` says whether another attempt may succeed."""

    code = "training_failed"
    exit_code = EXIT_FAILED
    retryable = False


class SpecInvalid(TrainingError):
    """The spec cannot be read, or holds a value that cannot be."""

    code = "spec_invalid"
    exit_code = EXIT_BAD_SPEC


class PackageMissing(TrainingError):
    """An optional package that the spec calls for is not installed; the message names it."""

    code = "package_missing"
    exit_code = EXIT_BAD_SPEC


class ImageBroken(TrainingError):
    """A picture does not decode; the message names it."""

    code = "image_broken"
    exit_code = EXIT_BAD_INPUT


class LatentsNotFinite(TrainingError):
    """The VAE turned a picture into NaN or infinity; the message names it."""

    code = "latents_not_finite"


class EmbeddingsNotFinite(TrainingError):
    """A text encoder turned a caption into NaN or infinity; the message quotes it."""

    code = "embeddings_not_finite"


class WarmStartUnsuitable(TrainingError):
    """The LoRA to go on from is of another kind, rank or base; the message says which."""

    code = "warm_start_unsuitable"
    exit_code = EXIT_BAD_INPUT


class LossNotFinite(TrainingError):
    """The loss or the gradient became NaN or infinite, or the loss ran away; checkpoints stay."""

    code = "loss_not_finite"


class OutOfMemory(TrainingError):
    """The device has too little memory for the batch and resolution."""

    code = "out_of_memory"


class BaseModelUnsuitable(TrainingError):
    """The base model cannot be loaded, or is of a kind that is not trained."""

    code = "base_model_unsuitable"


class ExportMismatch(TrainingError):
    """A LoRA file, read back, does not hold the trained weights."""

    code = "export_mismatch"
    retryable = True


class Stopped(Exception):
    """SIGTERM was heard and the state is saved; not an error.

    Attributes:
        step: optimizer steps done and saved; None before the first could be taken.
    """

    def __init__(self, step: int | None) -> None:
        super().__init__(step)
        self.step = step
