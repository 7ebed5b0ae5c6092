"""What a spec says of a base model that is otherwise than at its location; training and drawing."""

from typing import Literal

from pydantic import BaseModel

from worker.ml.base_models.load import Variant


class VariantFields(BaseModel):
    """The fields of `Variant`, which explains them."""

    config: str | None = None
    config_revision: str | None = None
    vae: str | None = None
    vae_revision: str | None = None
    vae_half_safe: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None

    @property
    def variant(self) -> Variant:
        """The same for `load_base_model`."""
        return Variant(**{name: getattr(self, name) for name in VariantFields.model_fields})
