"""The model: encoder, projector, decoder, what joins them, and checkpoints."""
