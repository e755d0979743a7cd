"""Speed, side by side with baselines; the pipeline does not need it."""
