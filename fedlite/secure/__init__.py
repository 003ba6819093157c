"""Sums that a server computes without seeing what it adds: secure aggregation on one server.

After Bonawitz et al. 2017, for 3 to 100 members who are known by name. It knows of no privacy
budget, no model and no network: members and server are state machines that take and return bytes.
"""
