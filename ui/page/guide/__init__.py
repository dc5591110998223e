"""The guide at the top of the page: the demo in three clicks, or one's own images by a checklist."""
