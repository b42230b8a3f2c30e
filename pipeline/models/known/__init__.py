"""The encoders that are known, by what they were trained on."""
