"""Turns the steps that a client wrote into calls on Ray: specification → plan → segments → graph."""
