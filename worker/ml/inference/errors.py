"""What can go wrong while drawing, in the user's words; `code` is stable."""


class InferenceError(Exception):
    """Base of this package's errors."""

    code = "generation_failed"


class SchedulerUnknown(InferenceError):
    """No scheduler has this name."""

    code = "scheduler_unknown"


class SchedulerUnsupported(InferenceError):
    """The scheduler cannot do what this base model or this many steps ask of it."""

    code = "scheduler_unsupported"


class PromptInvalid(InferenceError):
    """A weight in the prompt cannot be used."""

    code = "prompt_invalid"


class LoraUnreadable(InferenceError):
    """A LoRA's file is refused by its reader, whose code this carries."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class LoraMatchesNothing(InferenceError):
    """A LoRA has no module in common with the base model: it would change nothing."""

    code = "lora_matches_nothing"


class LoraShapeMismatch(InferenceError):
    """A LoRA's matrices do not have the shape of the base model's module of that name."""

    code = "lora_shape_mismatch"


class LoraHashMismatch(InferenceError):
    """A LoRA's file is not the one the request was made for."""

    code = "lora_hash_mismatch"


class StrengthTooLow(InferenceError):
    """strength × steps is below one step, so the init image would come back unchanged."""

    code = "strength_too_low"


class InitImageInvalid(InferenceError):
    """The init image cannot be decoded."""

    code = "init_image_invalid"


class OutOfMemory(InferenceError):
    """The device has too little memory for one picture of this size, whatever is given up."""

    code = "out_of_memory"


class Stopped(InferenceError):
    """The caller asked to stop; nothing was drawn to the end."""

    code = "stopped"
