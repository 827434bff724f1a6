"""Where an installed library has its commands: the folders experiments/ and configs/."""
