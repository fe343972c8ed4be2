"""The Ray actors of the service. `fleet.py` creates and finds these actors."""
