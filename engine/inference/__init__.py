"""Images from a prompt, a base and a checkpoint: Try it, the previews of a run, and what they share."""
