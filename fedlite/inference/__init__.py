"""What is made of a released model for those who use it."""
