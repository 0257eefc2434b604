"""A server that OpenAI's clients can talk to; extra ``serve``."""
