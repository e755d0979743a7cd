"""What CI proves of the committed results; the pipeline does not need it."""
