"""Augmentation of images and their keypoints. Imports core and the function modules."""
