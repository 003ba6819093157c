"""The attacker's side: epsilon measured from below, and every promise of the mechanism tested."""
