"""What needs the GPU, or hours: claims jobs and runs them."""

import os

# OpenMP's threads spin while they wait for one another. On a machine whose cores are shared that
# starves the very thread they wait for: a picture of half a second was seen to take sixteen. Read
# by the runtime when torch is loaded, so it is set before anything here imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
