"""What can go wrong with a base model."""


class BaseModelUnavailable(Exception):
    """The base model cannot be loaded from where the catalog says it is."""

    code = "base_model_unavailable"
