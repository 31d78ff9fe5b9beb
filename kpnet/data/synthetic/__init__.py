"""Drawn data sets: faces and clips of faces with exactly known keypoints. Imports the files of `kpnet.data`."""
