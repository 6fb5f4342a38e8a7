"""What runs below the supervisor: the helper that forks, and the first process of each box.

Standard library only, and little of it: every job pays for what is imported here.
"""
