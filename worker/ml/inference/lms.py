"""diffusers' linear multistep scheduler, without scipy, and right from the middle of a schedule."""

from typing import Any

from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from numpy.polynomial import Polynomial
from torch import Tensor


class ExactLMSScheduler(LMSDiscreteScheduler):
    """Its coefficients are integrals of polynomials, which need no quadrature."""

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        order: int = 4,
        return_dict: bool = True,
    ) -> Any:
        """As the class above, but with no higher an order than there are derivatives.

        It takes the order from the step's number, and a run that starts from a picture has none of
        the steps before; the coefficients it then leaves out would be missing from the sum.
        """
        able = min(order, len(self.derivatives) + 1)
        return super().step(model_output, timestep, sample, able, return_dict)

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """The weight of the derivative `current_order` steps ago, at step `t`.

        It is the integral over the step of the Lagrange polynomial that is 1 at that derivative's
        sigma and 0 at the other `order` - 1 ones'.
        """
        own = float(self.sigmas[t - current_order])
        basis = Polynomial([1.0])
        for k in range(order):
            if k != current_order:
                other = float(self.sigmas[t - k])
                basis = basis * Polynomial([-other, 1.0]) / (own - other)
        whole = basis.integ()
        return float(whole(float(self.sigmas[t + 1])) - whole(float(self.sigmas[t])))
