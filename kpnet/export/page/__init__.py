"""The web page that holds a model: its files, how they are put together, and the runtime that they need."""
