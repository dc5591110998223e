"""Images from a prompt, a control image, a base and a ControlNet: for Try it, grids and the previews of a run."""
