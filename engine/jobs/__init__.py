"""One background job at a time: its control and token, its events, and the snapshot that every page reads."""
