"""What `tests/soak/run` is made of."""
