"""pycocotools with a limit of our own."""

from __future__ import annotations

import pytest

from kpnet.evaluation.average_precision import MEASURES, has_pycocotools, run_pycocotools


@pytest.mark.parametrize(("limit", "recall"), [(20, 0.8), (25, 1.0), (5, 0.2)])
def test_the_limit_is_that_of_the_detections_of_an_image(limit: int, recall: float) -> None:
    """25 instances in one image, each found exactly: as many are recalled as detections count."""
    if not has_pycocotools():
        pytest.skip("no pycocotools")
    boxes = [(40.0 * x, 40.0 * y) for x in range(5) for y in range(5)]
    points = [[x, y, 2, x + 20, y + 20, 2] for x, y in boxes]
    shared = {"image_id": 1, "category_id": 1}
    truth = [
        {**shared, "keypoints": xy, "num_keypoints": 2, "bbox": [*box, 20, 20], "area": 400.0, "iscrowd": 0}
        for xy, box in zip(points, boxes, strict=True)
    ]
    results = [{**shared, "keypoints": xy, "score": 0.5} for xy in points]
    found = run_pycocotools([1], [1], truth, results, (0.05, 0.05), limit)
    assert tuple(found) == MEASURES
    assert found["AR"] == pytest.approx(recall)
    assert found["ARL"] == -1
