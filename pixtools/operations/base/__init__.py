"""The building blocks of operations: parameter classes, kinds of operation, preparation and goals of encoders."""
