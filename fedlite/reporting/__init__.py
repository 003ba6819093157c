"""What people see of a run: the record, the live line, the last table, the figures and the page.

Importing this package loads neither matplotlib nor rich; each module loads them when it draws.
"""
