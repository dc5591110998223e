"""The web server: port, guard, routes, files, shutdown. It does not know the page that it serves."""
