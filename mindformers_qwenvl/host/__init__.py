"""All that works around or reaches into MindFormers."""
