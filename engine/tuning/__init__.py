"""What can learn in a run: one module per kind of trainable."""
