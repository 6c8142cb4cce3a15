"""Video classification with Group Normalization, for when memory leaves only a few clips per GPU."""

import warnings

# fvcore's, at its import, which pytorchvideo's brings.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
