"""Networks: norms, blocks and the inflated 3D ResNet. Tensors and torch alone: no files, no Lightning."""
