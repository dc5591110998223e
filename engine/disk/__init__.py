"""Durable writes, free space, retries, and the watchdog for slow disks."""
