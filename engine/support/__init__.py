"""What helps when something is wrong: doctor, problem reports."""
