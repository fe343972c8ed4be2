"""Turns the steps that a client wrote into Ray calls: specification → plan → segments → graph."""
