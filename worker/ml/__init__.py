"""Tensors and callbacks: captioning, training, inference. Knows no job, SQL, S3 or HTTP."""
