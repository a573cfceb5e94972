"""Outages: a witness writes and watches throughout, a checker judges what it was promised."""
