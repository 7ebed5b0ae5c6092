"""Measurements that print their comparisons in one run; see README.md."""
