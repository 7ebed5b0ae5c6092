"""What is asked for, and how weights follow it."""
