"""The YAML files that choose values for the settings in ``tiny_audio.config``."""
