"""A checkpoint as a file."""
