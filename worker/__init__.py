"""What needs the GPU, or hours: claims jobs and runs them."""
