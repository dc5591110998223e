"""The Conditions tab."""
