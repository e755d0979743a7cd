"""Training: one loop for one worker and for several."""
