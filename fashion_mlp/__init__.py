"""What two stages or more share: parameters, data formats, the model, the pinned engine."""
