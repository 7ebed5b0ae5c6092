"""Pictures and captions to latents and embeddings, kept on disk."""
