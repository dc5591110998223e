"""Atomic writes, free space, retries, the watchdog for slow disks, and the files the app reads and writes most."""
