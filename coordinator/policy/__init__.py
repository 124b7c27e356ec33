"""Decisions: what a schedule costs under a channel, and how far to draft. Pure; both ends embed it."""
