"""Data formats: one file for each, with its reader and its writer.

`coco`, `cvat`, `deeplabcut`, `folder`, `kaggle_csv`, `label_studio`, `labelme`, `npz`, `points_csv`, `pts`, `sleap` and
`yolo` are the formats; each opens with a description of its layout. The other files are what they share: `instances`
and `image_files` are base classes, `gathering` makes instances of single points, and `detect` finds the format of a
file. Imports core, config, `kpnet.coordinates` and the files of `kpnet.data`, but none
of its other folders.

To add a format, write a file here whose class has `@DATASETS.register("name")`, and import it in
`kpnet/data/__init__.py`; if it can be written, add its function to `WRITERS` in `kpnet/data/convert.py`; and test it in
`tests/data/formats/test_<name>.py`.
"""
