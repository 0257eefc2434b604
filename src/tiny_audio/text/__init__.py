"""What is written: the prompt, the training labels, the rules that texts are scored by."""
