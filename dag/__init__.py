"""From the steps that a client wrote to their execution: specification → plan → segments → graph on Ray."""
