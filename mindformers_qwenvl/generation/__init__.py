"""What MindFormers' `generate()` is given: inputs, settings, sampling."""
