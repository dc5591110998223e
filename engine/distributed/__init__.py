"""One run in several processes: process group, DDP, FSDP, DeepSpeed."""
