"""What a ControlNet has learned: adherence, the verdict, preview images, grids and the full evaluation."""
