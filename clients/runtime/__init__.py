"""What a site runs by itself, beside the approved bundle: never sent, never taken from a server."""
