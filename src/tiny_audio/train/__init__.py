"""Training: the stages, the loop, and what a learner sees of it."""
