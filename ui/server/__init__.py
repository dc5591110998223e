"""The server: launch, guard, routes, shutdown."""
