"""What can be wrong with a LoRA file; `code` is stable."""


class LoraFileError(ValueError):
    """Base: the file cannot be used."""

    code = "lora_file_invalid"


class LoraFileInvalid(LoraFileError):
    """Not a sound safetensors file, over a limit, or half of a pair is missing."""


class LoraKeysUnknown(LoraFileError):
    """Names that are of no layout, or of no module of the base model."""

    code = "lora_keys_unknown"


class LoraPairMismatch(LoraFileError):
    """The matrices of a module fit neither each other nor the base model's weight."""

    code = "lora_shape_mismatch"


class LoraNotFinite(LoraFileError):
    """A tensor holds NaN or infinity."""

    code = "lora_not_finite"


class LoraIncompatible(LoraFileError):
    """Made for a model of another family."""

    code = "lora_incompatible"


class LoraVariantUnsupported(LoraFileError):
    """A kind of adapter that is not applied yet, and never silently left out."""

    code = "lora_variant_unsupported"


class LoraLayoutUnsupported(LoraFileError):
    """The layout to be written has no way to say what the LoRA does."""

    code = "lora_layout_unsupported"


class LoraScaleUntold(LoraFileError):
    """How strong the file's modules are stands in another file."""

    code = "lora_scale_untold"
