"""What is trained: layers beside frozen weights, and where they are put."""
