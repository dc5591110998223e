"""The Settings & help tab."""
