"""Data sets made of other data sets: several as one, some of the samples, samples with their neighbours in time."""
