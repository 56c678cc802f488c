"""Training by rules: the image codec, the speech encoder, then the paper's two stages (sections 3.2 and 4.1)."""
