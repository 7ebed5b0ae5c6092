"""Dockerfiles replayed without Docker: see tools/replay_image.py."""
