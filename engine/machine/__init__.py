"""The machine: hardware, clock, memory, number formats, and what its errors mean."""
