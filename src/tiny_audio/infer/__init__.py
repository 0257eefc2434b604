"""From recordings to text: any length, any number, in order."""
