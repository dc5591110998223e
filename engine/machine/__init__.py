"""The machine: hardware, clock, free memory."""
