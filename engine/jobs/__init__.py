"""One background job at a time: its token, its events, and the snapshot that every page reads."""
