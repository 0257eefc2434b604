"""Where speech comes from: sources, mixing, cleaning, batching."""
