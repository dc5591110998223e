"""Help with problems: the state of the installation, and problem reports."""
