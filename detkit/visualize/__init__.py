"""Pictures of images with what is known or found in them, and of training runs."""

from detkit.visualize.canvas import class_color, contact_sheet
from detkit.visualize.curves import plot_curves, plot_ladder, plot_latency
from detkit.visualize.detections import draw_boxes, draw_comparison, draw_detections, draw_points
from detkit.visualize.matches import draw_matches

__all__ = [
    "class_color",
    "contact_sheet",
    "draw_boxes",
    "draw_comparison",
    "draw_detections",
    "draw_matches",
    "draw_points",
    "plot_curves",
    "plot_ladder",
    "plot_latency",
]
