"""Files of conversations: read, checked, converted, fed to training."""
