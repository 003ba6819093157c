"""What a coordinator runs itself: never shipped to a site."""
