"""Memory, time and disk of a run: estimated before it starts, measured by a trial."""
