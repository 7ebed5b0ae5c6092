"""What `bench.jobs` is made of."""
