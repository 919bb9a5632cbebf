"""LoRA (Hu et al. 2021, arXiv:2106.09685): which layers to adapt, the adapted layer, and the way in and out."""
