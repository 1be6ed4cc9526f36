"""Continuous batching: models that write a target token by token, many requests to a step.

`layout` reads from a step's graph what is remembered and how; `slots` holds it, a row for each
hypothesis; `search` decides what goes on; `scheduler` lets requests join and leave between steps.
"""
