"""What a step will hold, and what is given up so that it fits."""
