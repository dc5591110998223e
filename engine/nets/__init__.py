"""The networks that learn, and the forms in which weights are kept, read and named."""
