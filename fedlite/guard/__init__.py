"""What protects a site: its folder, policy, egress and grants. Installed, never shipped to it."""
