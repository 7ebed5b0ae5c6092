"""The installer of torch knows what only a GPU needs."""

from tools.install_torch import cuda_packages, installed_version, pinned_version


def test_cuda_packages_are_told_from_the_rest() -> None:
    names = ["torch", "sympy", "nvidia-cublas", "cuda-bindings", "triton", "numpy"]
    assert cuda_packages(names) == ["cuda-bindings", "nvidia-cublas", "triton"]


def test_this_environment_has_the_pinned_torch() -> None:
    assert installed_version() == pinned_version()
