"""The Ray actors of the service, and the module that creates and finds them: `fleet.py`."""
