"""Bodies that timm builds: their layers as the backbone `ViT` needs them, and their feature maps."""
