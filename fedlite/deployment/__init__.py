"""What sites and coordinators exchange and keep: bundles, invitations, requests, journals."""
