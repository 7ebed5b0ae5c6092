"""The schedulers a generation may name. The worker holds a recipe for each of these."""

SCHEDULERS = (
    "euler",
    "euler_karras",
    "euler_a",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras",
    "dpmpp_2s",
    "heun",
    "lcm",
    "pndm",
    "tcd",
    "unipc",
)
