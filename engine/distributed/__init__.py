"""Several processes for one training: process group, DDP, FSDP, DeepSpeed."""
