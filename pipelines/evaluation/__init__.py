"""How good the model is: COCO metrics, thresholds, slices, confusion. Reads detections and labels, never images or models."""
